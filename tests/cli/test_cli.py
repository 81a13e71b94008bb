"""The `med42` command as people run it: what it prints, how it refuses, and what it does without the heavy libraries."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command import ENVIRONMENT, HEAVY, answer, med42, refusal
from scored import make_scores, share

from med42.lineage.journal import Job
from med42.recipe import load_recipe, parse_recipe, recipe_digest, shipped_recipes
from med42.release.decide_release import decide_release
from med42.release.seal_audit import seal_audit

EXAM_FILE = "sources.exam.origin={kind: file, files: [exam.jsonl]}"


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundle of a refusal, and the artifacts that it is about."""
    folder, recipe, job = tmp_path_factory.mktemp("sealed"), load_recipe("tiny", ["gates=[{score: average, at_least: 0.6}]"]), Job("test")

    make_scores(folder / "scores", job, {"base": dict.fromkeys(recipe.evaluation.benchmarks, share(2, 8))}, outside=["never-taught"])
    decide_release(recipe, folder / "scores", folder / "decision", job)
    seal_audit(recipe, folder / "decision", folder / "sealed", job)
    return folder


@pytest.fixture(scope="module")
def bundle(sealed: Path) -> Path:
    [path] = (sealed / "sealed").glob("*.med42")
    return path


# --- what it prints -------------------------------------------------------------------------------


def test_help_names_every_command(tmp_path):
    told = answer("--help", cwd=tmp_path)
    assert all(re.search(rf"\b{command}\b", told) for command in ("recipes", "check", "run", "compile", "audit"))
    assert "verify" in answer("audit", "--help", cwd=tmp_path)


def test_recipes_lists_every_shipped_recipe(tmp_path):
    lines = answer("recipes", cwd=tmp_path).splitlines()
    assert [line.split()[0] for line in lines[1:]] == shipped_recipes()


def test_check_prints_the_digest_and_what_follows(tmp_path):
    told = answer("check", "tiny", cwd=tmp_path)
    assert f"recipe digest {recipe_digest(load_recipe('tiny'))}" in told
    assert re.search(r"^SFT tokens a step +2,048 +- ", told, re.MULTILINE)


@pytest.mark.parametrize(("fact", "ours", "paper", "mark"), [
    ("SFT tokens a step", "262,144", "262,144", "same"),
    ("SFT GPUs", "16", "16", "same"),
    ("SFT steps", "5,322", "5,321", "agrees"),
])
def test_check_prints_the_papers_figures_beside_ours(fact, ours, paper, mark, paper_check):
    assert re.search(rf"^{fact} +{ours} +{paper} +{mark} ", paper_check, re.MULTILINE), paper_check


def test_check_lays_our_sources_beside_table_5(paper_check):
    for name, rest in (("medmcqa", "medmcqa +Apache-2.0 +180,462 +180,462 +0 +13.92 +13.92"),
                       ("medical, as listed", "547,542 +547,542 +0 +42.23 +42.24"),
                       ("ultramedical", "ultramedical +MIT +405,400 +- +- +31.27 +- +not in Table 5"), ("medical", "952,942 +952,942 +0 "),
                       ("general", "343,529 +343,529 +0 +26.50 +26.50"), ("all", "1,296,471 +1,296,471 +0 +100.00")):
        assert re.search(rf"^{name} +{rest}", paper_check, re.MULTILINE), name
    assert "405,400 have no row. Here ultramedical, which the paper does not name, stands in for them;" in " ".join(paper_check.split())


def test_check_says_so_where_nothing_stands_in(tmp_path):
    (tmp_path / "listed.yaml").write_text("extends: llama3-8b\nsources: {ultramedical: null, medmcqa: {rows: 182822}}\n")
    told = answer("check", "listed.yaml", cwd=tmp_path)
    assert re.search(r"^medmcqa +medmcqa +Apache-2.0 +182,822 +180,462 +\+2,360 ", told, re.MULTILINE)
    assert re.search(r"^all +893,431 +1,296,471 +-403,040 ", told, re.MULTILINE)
    assert "nothing stands in for them; 38.45% are general, where the paper prints 26.50%" in " ".join(told.split())


def test_check_has_no_columns_of_the_paper_for_other_recipes(tmp_path):
    told = answer("check", "tiny", cwd=tmp_path)
    assert re.search(r"^data +family +licence +rows +% *$", told, re.MULTILINE) and "Table 5" not in told


@pytest.fixture(scope="module")
def paper_check(tmp_path_factory: pytest.TempPathFactory) -> str:
    return answer("check", "llama3-8b", cwd=tmp_path_factory.mktemp("check"))


def test_check_tells_a_change_of_the_recipe(tmp_path):
    told = answer("check", "llama3-8b", "--set", "sft.epochs=1", cwd=tmp_path)
    assert re.search(r"^SFT steps +2,661 +5,321 +differs ", told, re.MULTILINE)


@pytest.mark.parametrize("changes", [[], ["sft.steps=9", "title=Ä \u2695"]])
def test_check_json_is_the_whole_recipe(tmp_path, changes):
    told = answer("check", "tiny", "--json", *(word for change in changes for word in ("--set", change)), cwd=tmp_path)
    assert parse_recipe(told) == load_recipe("tiny", changes)
    (tmp_path / "again.yaml").write_text(told)
    assert json.loads(answer("check", "again.yaml", "--json", cwd=tmp_path)) == json.loads(told)


def test_compile_says_what_it_wrote(tmp_path):
    told = answer("compile", "tiny", "--allow-tags", "-o", "new/tiny.yaml", cwd=tmp_path)
    size = (tmp_path / "new" / "tiny.yaml").stat().st_size
    content = (tmp_path / "new" / "tiny.yaml").read_bytes()
    version = f"med42-tiny-{hashlib.sha256(content).hexdigest()[:12]}"
    assert told == f"new/tiny.yaml: {version}, {size:,} bytes, recipe {recipe_digest(load_recipe('tiny'))[:12]}, profile default\n"


def test_verify_says_what_was_checked(tmp_path, sealed, bundle):
    assert answer("audit", "verify", bundle, cwd=tmp_path) == (
        f"verified {bundle}: 2 records, chain complete to decide_release, 0 rows by digest\n"
        "not signed: whoever could change the file could have made all of it\n")
    assert "every file of 2 artifacts as recorded" in answer("audit", "verify", bundle, "--artifacts", sealed, cwd=tmp_path)


# --- how it refuses -------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "words"), [
    (["check", "llama3-8"], ["recipe 'llama3-8'", "Did you mean 'llama3-8b'?"]),
    (["check", "absent.yaml"], ["absent.yaml", "no such file"]),
    (["check", "tiny", "--set", "sft.learning_rat=1"], ["unknown key 'learning_rat'", "nearest known key is 'learning_rate'"]),
    (["check", "tiny", "--set", "sft.epochs=many"], ["sft.epochs: 'many'", "valid number"]),
    (["check", "tiny", "--set", "sft.steps"], ["override 'sft.steps'", "key.path=value"]),
    (["compile", "tiny", "--allow-tags", "-o", "x.yaml", "--profile", "huge"], ["profile 'huge'", "one of default, gke, kind"]),
    (["compile", "tiny", "-o", "x.yaml"], ["images/digests.lock: found no such file", "make push", "--images"]),
    (["compile", "tiny", "--allow-tags", "-o", "file/x.yaml"], ["file", "a file that can be written"]),
    (["run", "tiny", "--work", "file"], ["a work folder that this user can write", "--work DIR"]),
    (["run", "tiny", "--work", "python3-runs"], ["the word 'python3'", "choose another folder"]),
    (["run", "tiny", "--runner", "podman"], ["--runner", "'podman'", "subprocess or docker"]),
    (["audit", "verify", "absent.med42"], ["absent.med42", "No such file", "a bundle"]),
    (["audit", "verify", "."], ["Is a directory", "a bundle"]),
    (["audit", "verify", "file"], ["file", "no bundle"]),
    (["audit", "verify", "random.med42"], ["random.med42", "no bundle"]),
])
def test_one_readable_error(tmp_path, arguments, words):
    (tmp_path / "file").touch()
    (tmp_path / "random.med42").write_bytes(bytes(range(256)) * 8)
    told = refusal(*arguments, cwd=tmp_path)
    assert all(word in told for word in words), told


def test_a_run_that_could_not_be_signed_is_not_begun(tmp_path):
    here = {"PYTHONPATH": str(Path(__file__).parents[2]), "MED42_SIGNING_KEY": ""}
    told = refusal("run", "tiny", "--work", "work", "--set", "audit.signed=true", cwd=tmp_path, **here)
    assert "MED42_SIGNING_KEY: found no signing key" in told and not (tmp_path / "work").exists()
    assert "another" in refusal("check", "tiny", "--set", "audit.signed=another", cwd=tmp_path, **here)


@pytest.mark.parametrize(("data_root", "words"), [
    ([], "found 1 files to look up; expected a folder to look them up in. Give --data-root DIR."),
    (["--data-root", "absent"], "found no exam.jsonl (sources.exam); expected every file the recipe names."),
])
def test_missing_data_are_told_before_any_work(tmp_path, data_root, words):
    told = refusal("run", "tiny", "--work", "work", "--set", EXAM_FILE, *data_root, cwd=tmp_path)
    assert told.startswith("error stage preflight: ")
    assert words in told
    assert [path.name for path in (tmp_path / "work" / "store").iterdir()] == ["journal"]


def test_a_changed_artifact_is_named_and_fails(tmp_path, sealed, bundle):
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", sealed, copy], check=True)
    (copy / "scores" / "scores.json").write_text("[]\n")
    told = med42("audit", "verify", bundle, "--artifacts", copy, cwd=tmp_path)
    assert (told.returncode, told.stderr) == (1, "")
    assert "changed" in told.stdout
    assert "scores.json" in told.stdout
    assert "FAILED" in told.stdout


def test_a_changed_bundle_is_refused(tmp_path, bundle):
    content = bytearray(bundle.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "changed.med42").write_bytes(content)
    assert "changed" in refusal("audit", "verify", "changed.med42", cwd=tmp_path)


# --- without the heavy libraries ------------------------------------------------------------------


def test_control_the_blocker_blocks_and_the_libraries_are_there(blocked):
    names = [*HEAVY, "kfp"]
    program = f"""
import importlib.util
for name in {names!r}:
    try:
        print(name, importlib.util.find_spec(name) is not None)
    except ImportError as error:
        print(error)
"""
    def told(environment: dict[str, str]) -> list[str]:
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    assert told(ENVIRONMENT) == [f"{name} True" for name in names]
    assert told({**ENVIRONMENT, **blocked(*names)}) == [f"{name} is blocked by this test" for name in names]


def test_reading_checking_and_verifying_need_no_heavy_library_and_no_kfp(tmp_path, blocked, sealed, bundle):
    environment = blocked(*HEAVY, "kfp")
    assert "compile" in answer("--help", cwd=tmp_path, **environment)
    assert "llama3-8b" in answer("recipes", cwd=tmp_path, **environment)
    assert "262,144" in answer("check", "llama3-8b", cwd=tmp_path, **environment)
    assert answer("check", "tiny", "--json", cwd=tmp_path, **environment).startswith("{")
    assert "verified" in answer("audit", "verify", bundle, "--artifacts", sealed, cwd=tmp_path, **environment)


def test_compiling_needs_no_heavy_library(tmp_path, blocked):
    assert "bytes" in answer("compile", "tiny", "--allow-tags", "-o", "tiny.yaml", cwd=tmp_path, **blocked(*HEAVY))
    assert (tmp_path / "tiny.yaml").is_file()


@pytest.mark.parametrize("arguments", [["compile", "tiny", "--allow-tags", "-o", "tiny.yaml"], ["run", "tiny", "--work", "work"]])
def test_without_kfp_the_extra_is_named(tmp_path, blocked, arguments):
    assert "kfp: found not installed" in refusal(*arguments, cwd=tmp_path, **blocked("kfp"))
