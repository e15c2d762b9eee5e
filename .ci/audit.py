"""Audits what is installed for known vulnerabilities. One that is found fails; a service that does not answer is said aloud."""

import json
import subprocess
import sys


def verdict(status: int, output: str, errors: str) -> tuple[int, str]:
    """(exit status, sentence) of a pip-audit run."""
    try:
        packages = json.loads(output)["dependencies"]
    except (ValueError, KeyError):
        if any(sign in errors for sign in ("ConnectionError", "ServiceError", "Max retries", "timed out", "Failed to resolve")):
            return 0, "NOT AUDITED: the vulnerability service cannot be reached from here"
        return status or 1, f"pip-audit failed:\n{errors[-2000:]}"
    found = [
        f"{package['name']} {package['version']}: {fault['id']}" for package in packages for fault in package.get("vulns", ())
    ]
    unknown = sum("skip_reason" in package for package in packages)
    if found:
        return 1, "known vulnerabilities:\n  " + "\n  ".join(found)
    if unknown == len(packages):
        return 0, f"NOT AUDITED: the vulnerability service knows none of {unknown} packages; is it a mirror without them?"
    note = f"; {unknown} are not known to it" if unknown else ""
    return 0, f"no known vulnerability in {len(packages)} packages{note}"


if __name__ == "__main__":
    command = [sys.executable, "-m", "pip_audit", "--local", "--skip-editable", "--progress-spinner", "off", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    ended, sentence = verdict(done.returncode, done.stdout, done.stderr)
    print(f"audit: {sentence}")
    sys.exit(ended)
