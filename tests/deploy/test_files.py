"""The files under deploy/: each tool that reads such a file takes it, and they name the same things."""

import asyncio
import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from uuid import uuid4

import kubernetes_validate
import pytest
import yaml
from docker.types import HostConfig
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.settings import Settings
from prefect_docker.worker import DockerWorkerJobConfiguration
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration
from prefect_servers import ROOT, SERVER_ENV, env_file

DEPLOY = ROOT / "deploy"
MANIFESTS = [
    pytest.param(manifest, id=f"{path.stem}-{manifest['kind']}-{manifest['metadata']['name']}")
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for manifest in yaml.safe_load_all(path.read_text())
]
KUBERNETES = "1.31"


def tool(name: str, *arguments: str) -> str:
    """What a linter says."""
    command = [str(Path(sys.executable).with_name(name)), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout + done.stderr


def configured(kind: str, configuration: type) -> object:
    """What a worker of this kind makes of the pool's template and the first deployment's variables."""
    template = json.loads((DEPLOY / f"{kind}-job-template.json").read_text())
    deployment = yaml.safe_load((DEPLOY / f"prefect-{kind}.yaml").read_text())["deployments"][0]
    variables = deployment["work_pool"]["job_variables"]

    async def filled() -> object:
        async with PrefectClient("http://127.0.0.1:9/api") as nobody:  # asked only for blocks, and there are none
            return await configuration.from_template_and_values(template, variables, client=nobody)

    made = asyncio.run(filled())
    made.prepare_for_flow_run(FlowRun(id=uuid4(), flow_id=uuid4(), name="smooth-otter"))
    return made


def test_settings_of_the_server_are_settings_of_prefect(monkeypatch):
    """Prefect passes over a name that it does not know."""
    settings = env_file(SERVER_ENV)
    place = {"PREFECT_SERVER_DATABASE_HOST": "db", "PREFECT_SERVER_DATABASE_PASSWORD": "secret"}
    for name, value in (settings | place).items():
        monkeypatch.setenv(name, value)
    known = Settings().to_environment_variables(exclude_unset=True)
    assert set(settings) <= set(known)


def test_a_kubernetes_job_asks_for_its_gpu():
    manifest = configured("kubernetes", KubernetesWorkerJobConfiguration).job_manifest
    kubernetes_validate.validate(manifest, KUBERNETES)
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "8", "memory": "32Gi"},
        "limits": {"memory": "32Gi", "nvidia.com/gpu": 1},
    }
    assert container["envFrom"] == [{"secretRef": {"name": "mdmf-storage"}}]
    assert {"name": "PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR", "value": "reschedule"} in container["env"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert pod["securityContext"]["runAsNonRoot"]


def test_a_docker_container_asks_for_its_gpu():
    made = configured("docker", DockerWorkerJobConfiguration)
    host = HostConfig(version="1.45", **{k: v for k, v in made.container_create_kwargs.items() if k != "user"})
    (request,) = host["DeviceRequests"]
    assert (request["Count"], request["Capabilities"]) == (1, [["gpu"]])
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert {volume.split(":")[0] for volume in made.volumes} <= {f"{compose['name']}_{name}" for name in compose["volumes"]}
    assert made.networks == [f"{compose['name']}_default"]
    assert made.env["PREFECT_API_URL"] == compose["services"]["worker"]["environment"]["PREFECT_API_URL"]


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_kubernetes_takes_the_manifests(manifest):
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_the_validator_knows_a_wrong_manifest():
    manifest = yaml.safe_load((DEPLOY / "kubernetes" / "server.yaml").read_text().split("---")[1])
    manifest["spec"]["template"]["spec"]["containers"][0]["resource"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_names_are_the_same_everywhere():
    """Image, secrets and their keys, config map and accounts, as docs/deploy.md makes them."""
    texts = [path.read_text() for path in DEPLOY.rglob("*") if path.suffix in (".yaml", ".json")]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert set(re.findall(r"mdmf:\d[\w.]*", "".join(texts) + (DEPLOY / "Dockerfile").read_text())) == {f"mdmf:{version}"}
    page = (ROOT / "docs" / "deploy.md").read_text()
    secrets = set(re.findall(r"secretKeyRef: {name: ([\w-]+), key: (\w+)}", "".join(texts)))
    for name, key in secrets:
        assert re.search(rf"create secret generic {name}\b[^`]*--from-literal={key}=", page), (name, key)
    assert "create secret generic mdmf-storage" in page
    assert "create configmap prefect-server --from-env-file=deploy/server.env" in page
    names = {(one.values[0]["kind"], one.values[0]["metadata"]["name"]) for one in MANIFESTS}
    template = json.loads((DEPLOY / "kubernetes-job-template.json").read_text())["variables"]["properties"]
    assert ("ServiceAccount", template["service_account_name"]["default"]) in names


def test_linters_have_nothing_to_say():
    assert tool("hadolint", str(DEPLOY / "Dockerfile")) == ""
    assert tool("shellcheck", str(DEPLOY / "worker.sh"), str(DEPLOY / "slurm" / "workers.sbatch")) == ""


def test_the_image_gets_all_that_is_installed_and_copied_files_exist():
    text = (DEPLOY / "Dockerfile").read_text()
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    copied = [word for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE) for word in line.split()[:-1]]
    assert set(packages) <= set(copied)
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text()
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name.split('/')[0]}\n" in ignore, name
    extras = re.search(r"ARG EXTRAS=(.*)", text).group(1)
    module = runpy.run_path(str(DEPLOY / "requirements.py"))
    lines = module["requirements"](ROOT / "pyproject.toml", extras.split(","))
    assert any(line.startswith("torch>") for line in lines)
    assert any(line.startswith("prefect-kubernetes") for line in lines)
    with pytest.raises(KeyError):
        module["requirements"](ROOT / "pyproject.toml", ["kubernetez"])
    assert os.access(DEPLOY / "worker.sh", os.X_OK)
