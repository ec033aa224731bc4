"""The Kubernetes manifest, against the operator's own schema and against what the jobs rely on."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parent.parent
MANIFEST_PATH = ROOT / "deploy" / "ray-cluster.yaml"
SCHEMA_PATH = Path(__file__).parent / "data" / "kuberay" / "rayclusters.yaml"
UNITS = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


def close_schema(schema: Any) -> Any:
    """Make a Kubernetes schema refuse unknown fields, as the API server's strict check does."""
    if isinstance(schema, list):
        return [close_schema(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: close_schema(part) for key, part in schema.items()}
    is_open = closed.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(closed.get("properties"), dict) and not is_open:
        closed.setdefault("additionalProperties", False)
    return closed


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft7Validator:
    definition = yaml.safe_load(SCHEMA_PATH.read_text())
    (version,) = [v for v in definition["spec"]["versions"] if v["name"] == "v1"]
    schema = close_schema(version["schema"]["openAPIV3Schema"])
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


@pytest.fixture
def manifest() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(MANIFEST_PATH.read_text())
    # A copy without the shared parts that YAML anchors make, so that a test changes one place.
    return copy.deepcopy(yaml.safe_load(yaml.dump(loaded, Dumper=_PlainDumper)))


class _PlainDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def groups(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    spec = manifest["spec"]
    workers = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    return {"head": spec["headGroupSpec"], **workers}


def pod(group: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = group["template"]["spec"]
    return found


def container(group: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod(group)["containers"]
    found: dict[str, Any] = only
    return found


def volume_at(group: dict[str, Any], path: str) -> dict[str, Any]:
    """The volume mounted at a path, with the mount's own fields under 'mount'."""
    (mount,) = [m for m in container(group)["volumeMounts"] if m["mountPath"] == path]
    (volume,) = [v for v in pod(group)["volumes"] if v["name"] == mount["name"]]
    return {**volume, "mount": mount}


def to_bytes(quantity: str) -> int:
    match = re.fullmatch(r"(\d+)(Ki|Mi|Gi|)", quantity)
    assert match
    return int(match[1]) * UNITS[match[2]]


def field_paths(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every field lies whose name the schema knows; names in free-form maps are left out."""
    free_form = {"rayStartParams", "requests", "limits", "metadata"}
    if isinstance(node, dict):
        for key, part in node.items():
            yield (*path, key)
            if key not in free_form:
                yield from field_paths(part, (*path, key))
    elif isinstance(node, list):
        for i, part in enumerate(node):
            yield from field_paths(part, (*path, i))


def test_the_operator_accepts_the_manifest(
    manifest: dict[str, Any], validator: jsonschema.Draft7Validator
) -> None:
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayCluster")
    assert [error.message for error in validator.iter_errors(manifest)] == []


def test_a_typo_in_any_field_is_caught(
    manifest: dict[str, Any], validator: jsonschema.Draft7Validator
) -> None:
    paths = list(field_paths(manifest))
    assert len(paths) > 150
    for path in paths:
        broken = copy.deepcopy(manifest)
        node: Any = broken
        for step in path[:-1]:
            node = node[step]
        node[f"{path[-1]}x"] = node.pop(path[-1])
        assert not validator.is_valid(broken), path


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("authOptions", "mode"), "tokens"),
        (("autoscalerOptions", "version"), "v3"),
        (("headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("workerGroupSpecs", 0, "maxReplicas"), "20"),
        (
            ("workerGroupSpecs", 0, "template", "spec", "volumes", 1, "emptyDir", "sizeLimit"),
            "40GB",
        ),
        (("workerGroupSpecs", 1, "groupName"), None),
    ],
)
def test_a_wrong_value_is_caught(
    manifest: dict[str, Any],
    validator: jsonschema.Draft7Validator,
    path: tuple[str | int, ...],
    value: Any,
) -> None:
    node: Any = manifest["spec"]
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    assert not validator.is_valid(manifest)


def test_the_cluster_runs_the_ray_that_the_project_pins(manifest: dict[str, Any]) -> None:
    pins = (ROOT / "constraints.txt").read_text()
    pinned = re.search(r"^ray(?:\[[\w,]+\])?==([\d.]+)$", pins, re.MULTILINE)
    assert pinned
    assert manifest["spec"]["rayVersion"] == pinned[1]
    named = re.findall(r"rayproject/ray:([\d.]+)-py311", MANIFEST_PATH.read_text())
    assert set(named) == {pinned[1]}


def test_every_group_has_the_secrets_and_names_them_to_the_jobs(manifest: dict[str, Any]) -> None:
    for group in groups(manifest).values():
        env = {entry["name"]: entry["value"] for entry in container(group)["env"]}
        for variable, secret_name, file_name in (
            ("RADNET_LAKE_KEY_FILE", "radnet-lake-key", "key"),
            ("AWS_SHARED_CREDENTIALS_FILE", "radnet-lake-s3", "credentials"),
            ("AWS_CONFIG_FILE", "radnet-lake-s3", "config"),
        ):
            path = Path(env[variable])
            volume = volume_at(group, str(path.parent))
            assert path.name == file_name
            assert volume["secret"] == {"secretName": secret_name, "defaultMode": 0o400}
            assert volume["mount"]["readOnly"] is True


def test_comments_make_every_secret_that_is_used(manifest: dict[str, Any]) -> None:
    text = MANIFEST_PATH.read_text()
    made = set(re.findall(r"create secret generic ([\w-]+)", text))
    used = {manifest["spec"]["authOptions"]["secretName"]}
    for group in groups(manifest).values():
        volumes = pod(group)["volumes"]
        used |= {v["secret"]["secretName"] for v in volumes if "secret" in v}
    assert made == used
    assert "from-file=auth_token=" in text  # the key that the operator looks for


def test_the_object_store_fits_into_shared_memory_and_spills_to_its_own_disk(
    manifest: dict[str, Any],
) -> None:
    for group in groups(manifest).values():
        store_bytes = int(group["rayStartParams"]["object-store-memory"])
        shm = volume_at(group, "/dev/shm")["emptyDir"]
        assert shm["medium"] == "Memory"
        limits = container(group)["resources"]["limits"]
        assert store_bytes <= to_bytes(shm["sizeLimit"]) <= to_bytes(limits["memory"]) / 2
        spill = volume_at(group, group["rayStartParams"]["object-spilling-directory"])["emptyDir"]
        assert "medium" not in spill
        assert to_bytes(spill["sizeLimit"]) < to_bytes(limits["ephemeral-storage"])


def test_the_head_does_no_work_and_the_groups_scale_from_nothing(manifest: dict[str, Any]) -> None:
    assert manifest["spec"]["enableInTreeAutoscaling"] is True
    found = groups(manifest)
    assert found["head"]["rayStartParams"]["num-cpus"] == "0"
    assert set(found) == {"head", "cpu", "gpu"}
    for name in ("cpu", "gpu"):
        assert found[name]["minReplicas"] == 0 < found[name]["maxReplicas"]
    gpu = found["gpu"]
    assert int(container(gpu)["resources"]["limits"]["nvidia.com/gpu"]) >= 1
    assert pod(gpu)["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert "nvidia.com/gpu" not in container(found["cpu"])["resources"]["limits"]


def test_every_group_runs_the_same_image_with_what_it_asked_for(manifest: dict[str, Any]) -> None:
    found = [container(group) for group in groups(manifest).values()]
    assert len({one["image"] for one in found}) == 1
    for one in found:
        assert one["resources"]["requests"] == one["resources"]["limits"]


def test_no_container_has_more_rights_than_it_needs(manifest: dict[str, Any]) -> None:
    found = groups(manifest)
    for name, group in found.items():
        security = pod(group)["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert "fsGroup" in security  # else the user cannot read secrets of mode 0400
        # Only the autoscaler, which runs beside the head, talks to Kubernetes.
        assert pod(group)["automountServiceAccountToken"] is (name == "head")
    containers = [container(group) for group in found.values()]
    for one in [*containers, manifest["spec"]["autoscalerOptions"]]:
        assert one["securityContext"]["allowPrivilegeEscalation"] is False
        assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_job_api_asks_for_a_token_and_the_file_holds_no_secret(
    manifest: dict[str, Any],
) -> None:
    assert manifest["spec"]["authOptions"]["mode"] == "token"
    text = MANIFEST_PATH.read_text()
    assert not re.search(r"[0-9a-fA-F]{32,}|[A-Za-z0-9+/]{40,}|AKIA[A-Z0-9]{16}", text)
    assert "--from-literal" not in text  # a value on a command line stays in the shell's history
    for group in groups(manifest).values():
        for entry in container(group)["env"]:
            assert entry["value"].startswith("/etc/radnet-lake/")
