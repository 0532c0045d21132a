"""Where a job's Python finds the interposer: whole, and the same however often it is asked for."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distributions
from pathlib import Path

from singularity.agent.interposer.inject import prepare


def test_the_directory_declares_the_entry_point_that_torch_loads(tmp_path: Path) -> None:
    target = prepare(tmp_path / "run" / "inject")
    assert target == tmp_path / "run" / "inject"
    (found,) = distributions(path=[str(target)])
    (point,) = found.entry_points
    assert (point.group, point.value) == ("torch.backends", "singularity_interposer.hook:activate")
    assert (target / "singularity_interposer" / "page.py").is_file()
    assert not (target / "singularity_interposer" / "inject.py").exists()


def test_asking_again_or_at_the_same_time_changes_nothing(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        targets = set(pool.map(lambda _: prepare(tmp_path / "inject"), range(32)))
    assert targets == {tmp_path / "inject"}
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 2, names
    assert names[1].startswith("inject-")


def test_an_older_version_is_replaced_but_kept_for_those_who_use_it(tmp_path: Path) -> None:
    older = tmp_path / "inject-000000000000"
    older.mkdir()
    (tmp_path / "inject").symlink_to(older.name)
    target = prepare(tmp_path / "inject")
    assert (target / "singularity_interposer" / "hook.py").is_file()
    assert older.is_dir()


def test_the_copy_needs_nothing_but_the_standard_library_to_do_nothing(tmp_path: Path) -> None:
    """Every Python of the job passes here, also those that are no rank."""
    code = (
        "import sys; from singularity_interposer.hook import activate; activate(); "
        "sys.exit('torch' in sys.modules or 'singularity' in sys.modules)"
    )
    env = {"PYTHONPATH": str(prepare(tmp_path / "inject"))}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
