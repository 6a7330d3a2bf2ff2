"""Checks of the deployment files that need no engine, cluster or account."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TypeAlias, cast

import pytest
import yaml

from importer.api.metrics import metrics_text
from importer.model import FINISHED, State
from loader.contract import FAILURE_KINDS, ExitCode
from tests.support.paths import ROOT

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
TERRAFORM = DEPLOY / "terraform"

Value: TypeAlias = "str | int | bool | list[Value] | dict[str, Value] | None"
Mapping: TypeAlias = "dict[str, Value]"

# More than the longest stop, as in docs/operations.md.
STOP_SECONDS = 20


def load(path: Path) -> Mapping:
    # yaml has no types; a test of another shape fails
    return cast("Mapping", yaml.safe_load(path.read_text()))


def at(value: Value, *path: str | int) -> Value:
    """Return the value at a path of keys and indices, or None."""
    for key in path:
        if isinstance(value, dict) and isinstance(key, str):
            value = value.get(key)
        elif isinstance(value, list) and isinstance(key, int):
            value = value[key]
        else:
            return None
    return value


def names(values: Value, *path: str) -> set[str]:
    """Return the strings at a path in the items of a list."""
    return {found for each in items(values) if isinstance(found := at(each, *path), str)}


def mapping(value: Value) -> Mapping:
    assert isinstance(value, dict)
    return value


def items(value: Value) -> list[Value]:
    assert isinstance(value, list)
    return value


def settings() -> set[str]:
    """Return the variables that docs/configuration.md lists."""
    page = (ROOT / "docs" / "configuration.md").read_text()
    return set(re.findall(r"^\| `([A-Z_]+)`", page, re.MULTILINE))


def is_setting(name: str) -> bool:
    return name in settings() or re.fullmatch(r"PG[A-Z]+", name) is not None  # the page lists libpq's as PG*


def services() -> dict[str, Mapping]:
    return {
        name: mapping(service) for name, service in mapping(load(ROOT / "compose.yaml")["services"]).items()
    }


SERVICES = services()
MANIFESTS = sorted(path for path in KUBERNETES.rglob("*.yaml") if path.name != "kustomization.yaml")
BASE = KUBERNETES / "base"
SITE = KUBERNETES / "site"
WORKLOADS = [BASE / "statefulset.yaml", KUBERNETES / "one-off" / "job.yaml"]


# ---- The image


def test_the_containerfile_passes_the_linter() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    run = subprocess.run([linter, ROOT / "Containerfile"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def test_dockerignore_admits_what_the_containerfile_copies() -> None:
    allowed = re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    for path in " ".join(copied).split():
        assert (ROOT / path).exists()
        assert path in allowed


def test_image_and_manifests_name_the_same_user() -> None:
    user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    assert user is not None
    for path in WORKLOADS:
        context = at(load(path), "spec", "template", "spec", "securityContext")
        assert (at(context, "runAsUser"), at(context, "runAsGroup")) == (int(user[1]), int(user[2]))


def test_variables_of_the_image_are_documented() -> None:
    final_stage = (ROOT / "Containerfile").read_text().rsplit("\nFROM ", 1)[1]
    variables = re.findall(r"\b([A-Z_]{3,})=", final_stage.split("\nENV ")[1].split("\nUSER")[0])
    assert {name for name in variables if not is_setting(name)} == {"PATH", "PYTHONDONTWRITEBYTECODE"}


# ---- Compose, and files with a schema


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ("compose-spec", "compose.yaml"),
        ("github-workflows", ".github/workflows/ci.yml"),
        ("dependabot", ".github/dependabot.yml"),
    ],
)
def test_a_file_matches_its_schema(schema: str, path: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", ROOT / path]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"] == service["memswap_limit"]
    assert not {"privileged", "cap_add"} & set(service)
    for port in items(service.get("ports", [])):
        assert str(port).startswith("127.0.0.1:")


def test_files_that_compose_mounts_exist() -> None:
    mounts = [str(each) for service in SERVICES.values() for each in items(service.get("volumes", []))]
    sources = [mount.split(":")[0] for mount in mounts if mount.startswith("./")]
    assert sources
    assert all((ROOT / source).is_file() for source in sources)
    volumes = {mount.split(":")[0] for mount in mounts if not mount.startswith("./")}
    assert volumes == set(mapping(load(ROOT / "compose.yaml")["volumes"]))


def test_only_the_importer_is_made_anew_by_a_build_of_its_image() -> None:
    assert [name for name, service in SERVICES.items() if "build" in service] == ["importer"]
    for name in ("postgres", "credentials"):
        assert str(SERVICES[name]["image"]).startswith("postgres:")


def test_the_settings_of_compose_are_documented() -> None:
    assert all(is_setting(name) for name in mapping(SERVICES["importer"]["environment"]))


def test_a_stop_allows_enough_time_to_suspend() -> None:
    assert SERVICES["importer"]["stop_grace_period"] == f"{STOP_SECONDS}s"
    for path in WORKLOADS:
        seconds = at(load(path), "spec", "template", "spec", "terminationGracePeriodSeconds")
        assert isinstance(seconds, int)
        assert seconds >= STOP_SECONDS
    assert f"docker stop --time {STOP_SECONDS}" in (TERRAFORM / "boot.sh.tftpl").read_text()


# ---- Monitoring


def test_alerts_and_dashboard_query_existing_metrics() -> None:
    text = metrics_text(dict.fromkeys(State, 0), is_database_up=True).decode()
    families = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    known = {
        name + suffix
        for name, kind in families.items()
        for suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))
    }
    dashboard = json.loads((DEPLOY / "compose" / "grafana" / "importer.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = items(at(load(DEPLOY / "compose" / "alerts.yml"), "groups", 0, "rules"))
    queries += [str(at(rule, "expr")) for rule in rules]
    asked = set(re.findall(r"\bimporter_\w+", "\n".join(queries)))
    assert asked <= known
    assert {"importer_imports", "importer_source_bytes_total", "importer_rejects_total"} <= asked


def test_series_exist_from_the_start_so_the_first_event_is_an_increase() -> None:
    text = metrics_text(dict.fromkeys(State, 0), is_database_up=True).decode()
    for state in FINISHED:
        assert f'importer_import_duration_seconds_count{{state="{state}"}} ' in text
    for code in (*ExitCode, -9):
        assert f'importer_loader_exits_total{{code="{int(code)}"}} ' in text


def test_prometheus_with_a_token_differs_in_the_token_only() -> None:
    folder = DEPLOY / "compose"
    plain, with_token = load(folder / "prometheus.yml"), load(folder / "prometheus-with-token.yml")
    (job,) = items(at(with_token, "scrape_configs"))
    assert isinstance(job, dict)
    assert job.pop("authorization") == {"credentials_file": "/run/secrets/importer_token"}
    assert with_token == plain


def test_the_dashboard_queries_the_provisioned_source() -> None:
    grafana = DEPLOY / "compose" / "grafana"
    uid = at(load(grafana / "datasource.yaml"), "datasources", 0, "uid")
    dashboard = json.loads((grafana / "importer.json").read_text())
    assert all(panel["datasource"]["uid"] == uid for panel in dashboard["panels"])


def test_the_operations_page_lists_each_alert() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    rules = items(at(load(DEPLOY / "compose" / "alerts.yml"), "groups", 0, "rules"))
    alarms = re.findall(r"^    ([a-z-]+) = \{$", (TERRAFORM / "alarms.tf").read_text(), re.MULTILINE)
    for name in [str(at(rule, "alert")) for rule in rules] + alarms:
        assert f"`{name}`" in page, name


# ---- Kubernetes


def test_each_manifest_is_in_a_kustomization() -> None:
    named = {
        path.parent / str(name)
        for path in KUBERNETES.rglob("kustomization.yaml")
        for name in items(load(path)["resources"])
        if name != "../base"
    }
    assert named == set(MANIFESTS)


@pytest.mark.parametrize("path", WORKLOADS, ids=lambda path: path.stem)
def test_a_pod_has_no_more_rights_than_it_needs(path: Path) -> None:
    pod = at(load(path), "spec", "template", "spec")
    container = at(pod, "containers", 0)
    assert at(pod, "securityContext", "runAsNonRoot") is True
    assert at(pod, "automountServiceAccountToken") is False
    assert at(pod, "enableServiceLinks") is False
    assert at(container, "securityContext") == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert at(container, "resources", "requests", "memory") == at(container, "resources", "limits", "memory")


@pytest.mark.parametrize("path", WORKLOADS, ids=lambda path: path.stem)
def test_a_pod_mounts_existing_volumes_and_reads_existing_settings(path: Path) -> None:
    workload = load(path)
    pod = at(workload, "spec", "template", "spec")
    claims = at(workload, "spec", "volumeClaimTemplates") or []
    mounts = at(pod, "containers", 0, "volumeMounts")
    assert names(mounts, "name") == names(at(pod, "volumes"), "name") | names(claims, "metadata", "name")
    environment = {
        str(at(each, "name")): at(each, "value") for each in items(at(pod, "containers", 0, "env"))
    }
    assert all(is_setting(name) for name in environment)
    secret = Path(str(environment["PGSERVICEFILE"]))
    assert str(secret.parent) in names(mounts, "mountPath")
    generated = at(load(SITE / "kustomization.yaml"), "secretGenerator", 0)
    assert items(at(generated, "files")) == [secret.name]
    assert list(names(at(pod, "volumes"), "secret", "secretName")) == [at(generated, "name")]


def test_service_budget_and_policy_select_the_pods() -> None:
    labels = {
        path.stem: mapping(at(load(path), "spec", "template", "metadata", "labels")) for path in WORKLOADS
    }
    selectors = {
        "service": at(load(BASE / "service.yaml"), "spec", "selector"),
        "budget": at(load(BASE / "poddisruptionbudget.yaml"), "spec", "selector", "matchLabels"),
        "policy": at(load(BASE / "networkpolicy.yaml"), "spec", "podSelector", "matchLabels"),
    }
    selected = {
        name: {pod for pod, has in labels.items() if mapping(selector).items() <= has.items()}
        for name, selector in selectors.items()
    }
    assert selected == {
        "service": {"statefulset"},
        "budget": {"statefulset"},
        "policy": {"statefulset", "job"},
    }


def test_the_probes_request_existing_paths() -> None:
    container = at(load(WORKLOADS[0]), "spec", "template", "spec", "containers", 0)
    asked = [
        at(container, f"{name}Probe", "httpGet", "path") for name in ("startup", "liveness", "readiness")
    ]
    assert asked == ["/health/live", "/health/live", "/health/ready"]


def test_the_job_fails_at_once_for_exit_codes_without_a_retryable_failure() -> None:
    retryable = {kind.exit_code for kind in FAILURE_KINDS.values() if kind.retryable}
    rules = items(at(load(WORKLOADS[1]), "spec", "podFailurePolicy", "rules"))
    given_up = next(at(rule, "onExitCodes", "values") for rule in rules if at(rule, "action") == "FailJob")
    assert given_up == sorted(set(ExitCode) - retryable - {ExitCode.PUBLISHED})


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_builds_the_manifests(tmp_path: Path) -> None:
    shutil.copytree(KUBERNETES, tmp_path, dirs_exist_ok=True)
    site = tmp_path / "site"
    shutil.copy(site / "pg_service.conf.example", site / "pg_service.conf")
    kinds: list[Value] = []
    for folder in (site, tmp_path / "one-off"):
        run = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=True)
        kinds += [at(document, "kind") for document in yaml.safe_load_all(run.stdout)]
    assert sorted(str(kind) for kind in kinds) == [
        "Job",
        "NetworkPolicy",
        "NetworkPolicy",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Secret",
        "Service",
        "StatefulSet",
    ]


# ---- Terraform


def test_the_boot_script_gets_the_variables_that_it_uses() -> None:
    names = set(re.findall(r"\$\{(?:replace\()?(\w+)", (TERRAFORM / "boot.sh.tftpl").read_text()))
    given = (TERRAFORM / "service.tf").read_text().split("boot.sh.tftpl")[1].split("})")[0]
    assert names == set(re.findall(r"^ +(\w+) +=", given, re.MULTILINE))


def test_the_settings_of_the_boot_script_are_documented() -> None:
    names = re.findall(r"--env (\w+)=", (TERRAFORM / "boot.sh.tftpl").read_text())
    assert names
    assert all(is_setting(name) for name in names)


@pytest.mark.skipif(shutil.which("terraform") is None, reason="Terraform is not installed")
def test_terraform_is_formatted() -> None:
    run = subprocess.run(
        ["terraform", "fmt", "-check", "-recursive", TERRAFORM],
        env=os.environ | {"TF_CLI_CONFIG_FILE": os.devnull},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
