"""The stage `seal_audit`: the whole chain of records behind a release, or a refusal, in one file."""

from __future__ import annotations

from pathlib import Path

from med42.errors import Med42Error
from med42.lineage import bundle
from med42.lineage.artifact import Outcome, Plan, produce, stage
from med42.lineage.journal import Job
from med42.lineage.keyless import KeylessSigner
from med42.lineage.ml_bom import ml_bom
from med42.lineage.record import CARRIED, Record, differing_row_sets, read_ancestry, read_record, row_sets
from med42.lineage.signature import Signer, find_signer
from med42.lineage.statements import statements
from med42.recipe import Recipe, canonical_recipe, recipe_digest
from med42.release.audit_page import audit_page

STATING = ("in-toto-attestation", "protobuf")
SIGNING = (*STATING, "model-signing", "cryptography")


@stage
def seal_audit(recipe: Recipe, subject: Path, out: Path, job: Job) -> Record:
    """Seal the records of a release, or of a decision against one, into `<recipe>-<digest8>.med42`.

    It is signed where the environment names a key (see `med42.lineage.signature`).

    Raises:
        Med42Error: the chain has a gap, its parts belong to different recipes, or the recipe asks for a signature and there
            is no key.
    """
    signer = find_signer(recipe.audit.signed)
    parameters = {"recipe": recipe_digest(recipe), "signer": signer.identity if signer else ""}
    plan = Plan("seal_audit", "bundle", parameters, {"subject": subject}, "release", SIGNING if signer else STATING)
    return produce(plan, out, job, lambda draft: _seal(recipe, subject, signer, draft))


def _seal(recipe: Recipe, subject: Path, signer: Signer | KeylessSigner | None, draft: Path) -> Outcome:
    record, ancestry = read_record(subject), read_ancestry(subject)
    if wrong := differing_row_sets(subject, ancestry):
        raise Med42Error(subject / CARRIED / wrong[0], "no row set, or another than its record tells", "those of all that it descends from",
                         "It was changed since it was made; make the artifact again.")
    records = {**ancestry, record.digest: record}
    digest, canonical = recipe_digest(recipe), canonical_recipe(recipe)
    decision = next((one for one in records.values() if one.stage == "decide_release"), None)
    if decision is None:
        raise Med42Error(subject, "a chain without a decision", "a release or a decision, with all before it", "Run decide_release first.")
    report = audit_page(recipe, record, records, signer.identity if signer else "")
    more = {f"{bundle.ROW_SETS}{name}": (subject / CARRIED / name).read_bytes() for name in row_sets(ancestry)}
    more |= {f"{bundle.STATEMENTS}{name}": text for name, text in statements(recipe.name, digest, records).items()}
    more[bundle.BILL] = ml_bom(recipe.model_dump(mode="json"), decision, records)
    content = bundle.pack(recipe.name, canonical, record.digest, records, report, more, signer)
    name = f"{recipe.name}-{digest[:8]}.med42"
    sealed = bundle.unpack(content, name)
    bundle.check_chain(sealed, name)
    rows = bundle.check_rows(sealed, name)
    by = bundle.check_signed(sealed, name)
    (draft / name).write_bytes(content)
    (draft / "page.html").write_text(report)
    measured = {"bundle": name, "records": len(records), "rows": rows, "subject": record.digest, "signed_by": by}
    return Outcome({**measured, "summary": f"{name}, {len(records)} records, {f'signed by {by}' if by else 'not signed'}"})
