"""gpu-npu doctor: what it says of a machine, and of machines that lack this or that."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gpu_npu import NPU, BackendUnavailableError, KernelError, doctor
from gpu_npu.backends import kernels
from gpu_npu.cli import main
from gpu_npu.doctor import BACKENDS, NEVER, CudaDriver, Validation, examine, kernel_digest, last_validation, small_network

NONE = "there is none"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["doctor", *arguments])


def facts() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(run("--json").stdout)
    return content


def test_here() -> None:
    told = facts()
    assert list(told["backends"]) == list(BACKENDS)
    assert told["backends"]["cpu"]["status"] == told["backends"]["reference"]["status"] == "works"
    assert told["backends"]["cuda"]["status"] in ("works", "missing")
    assert told["healthy"] is True
    assert told["kernel_digest"] == kernel_digest()
    assert set(told["machine"]) == {"python", "workers", "gpu", "driver", "cupy", "nvrtc", "compiler", "cache"}
    text = run()
    assert text.exit_code == 0
    assert "reference works" in text.stdout


def test_the_small_network_has_what_can_go_wrong() -> None:
    with NPU.from_connectome(small_network(), backend="reference") as npu:
        npu.inject(range(40), 3.5)
        run = npu.run(doctor.BURSTS)
        assert 0 < run.fired_counts[-1] < 300
        assert run.synaptic_injections > 10_000
        assert npu.process_burst().neurons_in_refractory > 0


def fails(monkeypatch: pytest.MonkeyPatch, failing: dict[str, Exception]) -> None:
    """Backends that cannot be opened."""
    from gpu_npu.backends import select

    def opener(name: str, error: Exception) -> Callable[..., Any]:
        def fail(*_: object) -> Any:
            raise error

        return fail

    for name, error in failing.items():
        monkeypatch.setattr(select, f"_{name}", opener(name, error))


def test_what_is_missing_and_the_command_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fails(monkeypatch, {"cuda": BackendUnavailableError(NONE), "cpu": BackendUnavailableError(NONE)})
    monkeypatch.setattr(doctor.shutil, "which", lambda tool: f"/usr/bin/{tool}" if tool == "dnf" else None)
    monkeypatch.setattr(doctor, "is_complete", lambda extra: False)
    for cuda, fix in (((13, 0), "[cuda13]'"), ((14, 1), "[cuda13]'"), ((12, 4), "[cuda12]'"), ((11, 8), None)):
        driver = CudaDriver("1.2", cuda, ("a GPU",))
        monkeypatch.setattr(doctor, "cuda_driver", lambda driver=driver: driver)
        told = facts()
        gpu, cpu, reference = (told["backends"][name] for name in BACKENDS)
        assert (gpu["status"], gpu["detail"]) == ("missing", NONE)
        assert gpu["fix"] is None if fix is None else (" install --editable '" in gpu["fix"] and gpu["fix"].endswith(fix))
        assert cpu == {"status": "missing", "detail": NONE, "fix": "dnf install gcc-c++"}
        assert reference["status"] == "works"
        assert (told["best"], told["healthy"]) == ("reference", True)
        assert told["machine"]["driver"] == f"1.2, for CUDA {cuda[0]}.{cuda[1]}"
    monkeypatch.setattr(doctor, "cuda_driver", lambda: CudaDriver("1.2", (13, 0), ("a GPU",)))
    monkeypatch.setattr(doctor, "is_complete", lambda extra: True)
    assert facts()["backends"]["cuda"]["fix"] is None, "what is installed already is no remedy"
    monkeypatch.setattr(doctor, "is_complete", lambda extra: False)
    monkeypatch.setattr(doctor, "cuda_driver", lambda: CudaDriver("1.2", (13, 0), ()))
    assert facts()["backends"]["cuda"]["fix"] is None
    monkeypatch.setattr(doctor, "cuda_driver", lambda: None)
    assert facts()["backends"]["cuda"]["fix"] is None
    assert "fix: dnf install gcc-c++" in run().stdout


def test_a_backend_that_should_work_and_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    fails(monkeypatch, {"cuda": BackendUnavailableError(NONE), "cpu": KernelError("does not compile\nlog")})
    result = run("--json")
    told = json.loads(result.stdout)
    assert result.exit_code == 14
    assert (told["best"], told["healthy"]) == ("cpu", False)
    assert told["backends"]["cpu"]["status"] == "broken"
    assert told["backends"]["cpu"]["detail"] == "does not compile"
    assert told["backends"]["cpu"]["fix"] is None
    text = run()
    assert text.exit_code == 14
    assert "does NOT work" in text.stdout


@pytest.mark.parametrize(("inject", "what"), [(3.25, "fires other neurons"), (None, "leaves another state")])
def test_a_backend_that_computes_something_else(inject: float | None, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stimulus that is a little off, or a potential that is after the last burst."""
    fails(monkeypatch, {"cuda": BackendUnavailableError(NONE)})
    if inject is not None:
        wrong = NPU.inject
        monkeypatch.setattr(NPU, "inject", lambda npu, ids, amount: wrong(npu, ids, inject if npu.backend == "cpu" else amount))
    else:
        right = NPU.get_parameter

        def off_by_a_bit(npu: NPU, name: str) -> Any:
            values = right(npu, name)
            if name == "membrane_potential" and npu.backend == "cpu":
                values.view("u4")[17] ^= 1
            return values

        monkeypatch.setattr(NPU, "get_parameter", off_by_a_bit)
    diagnosis = examine()
    assert diagnosis.best.backend == "cpu"
    assert diagnosis.best.status == "broken"
    assert what in diagnosis.best.detail
    assert not diagnosis.healthy


def write(folder: Path, name: str, **changes: object) -> None:
    content = {"device": "GPU X", "date": "2031-05-01", "commit": "abc1234", "kernel_digest": kernel_digest(), "passed": True, **changes}
    (folder / name).write_text(json.dumps(content))


def test_the_last_validation(tmp_path: Path) -> None:
    assert last_validation((tmp_path / "none", tmp_path)) == Validation()
    write(tmp_path, "validate-1.json", passed=False)
    write(tmp_path, "validate-2.json", kernel_digest="other kernels")
    write(tmp_path, "other.json")
    (tmp_path / "validate-3.json").write_text("not JSON")
    (tmp_path / "validate-4.json").write_text("[1]")
    (tmp_path / "validate-5.json").write_text("{}")
    assert last_validation((tmp_path,)) == Validation()
    write(tmp_path, "validate-6.json", device="GPU Y", date="2031-04-30")
    assert last_validation((tmp_path,)) == Validation("GPU Y", "2031-04-30", "abc1234")
    write(tmp_path, "validate-0.json")
    assert last_validation((tmp_path,)) == Validation("GPU X", "2031-05-01", "abc1234")


def test_validation_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "last_validation", Validation)
    assert NEVER in run().stdout
    assert facts()["validated"] is None
    monkeypatch.setattr(doctor, "last_validation", lambda: Validation("GPU X", "2031-05-01", "abc1234"))
    assert "passed on GPU X, 2031-05-01 (commit abc1234)" in run().stdout.replace("\n          ", " ")
    assert facts()["validated"] == {"device": "GPU X", "date": "2031-05-01", "commit": "abc1234"}


def test_the_digest_is_of_every_byte_of_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    before = kernel_digest()
    texts = dict(kernels.sources())
    seen = {before}
    for name in texts:
        monkeypatch.setattr(kernels, "sources", lambda name=name: {**texts, name: texts[name] + " "})
        seen.add(kernel_digest())
    assert len(seen) == 1 + len(texts)
