"""Keys, tokens and passwords that a run is given are in nothing that it leaves, prints or compiles."""

import hashlib
import subprocess

from signing import make_key
from whole_run import MED42, changes, run

SHORT = changes("sft.steps=2", "dpo.steps=1", "evaluation.limit=2", "evaluation.every_round=false", "gates=[]")
GIVEN = ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "GOOGLE_API_KEY", "WANDB_API_KEY", "PROXY_PASSWORD")


def test_no_planted_secret_is_in_any_output_of_a_whole_run(tmp_path, monkeypatch):
    (tmp_path / "hidden").mkdir()
    key = make_key(tmp_path / "hidden", "a-key-of-ours")
    monkeypatch.setenv("MED42_SIGNING_KEY", str(key))
    secrets = {name: hashlib.sha256(name.encode()).hexdigest()[:24] for name in GIVEN}
    for name, secret in secrets.items():
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{secrets['PROXY_PASSWORD']}@127.0.0.1:9")
    finished = run(tmp_path / "work", "tiny", *SHORT)
    assert finished.status == 0, finished.output
    assert "signed by key" in finished.output
    compiled = tmp_path / "work" / "pipeline.yaml"
    subprocess.run([MED42, "compile", "tiny", "-o", compiled, "--allow-tags", *SHORT], check=True, capture_output=True)
    planted = [text.encode() for text in (*secrets.values(), "".join(key.read_text().splitlines()[1:-1]), key.read_text().splitlines()[1],
                                          key.name)]
    looked = 0
    for path in [path for path in (tmp_path / "work").rglob("*") if path.is_file()]:
        content, looked = path.read_bytes(), looked + 1
        assert not [secret for secret in planted if secret in content], path
    assert not [secret for secret in planted if secret in finished.output.encode()]
    assert looked > 200  # artifacts in the store and in the run, release, journal, log, report, bundle, pipeline
