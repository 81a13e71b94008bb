"""Add the Debian packages of this image to a CycloneDX bill of materials:  debian.py IN OUT."""

import json
import subprocess
import sys
from pathlib import Path

source, target = map(Path, sys.argv[1:])
bill = json.loads(source.read_text())
listed = subprocess.run(("dpkg-query", "--show", "--showformat", "${Package} ${Version} ${Architecture}\n"),
                        capture_output=True, text=True, check=True).stdout
for line in sorted(listed.splitlines()):
    name, version, architecture = line.split()
    purl = f"pkg:deb/debian/{name}@{version}?arch={architecture}"
    bill["components"].append({"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl})
target.write_text(json.dumps(bill, indent=1) + "\n")
