"""Where output goes: regular files are replaced, devices and pipes are written as they are."""

import json
import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from eplb_opt.io.atomic import replace_file
from tests.command_line import PROGRAM, Done, eplb_opt, eplb_opt_process

NULL, FULL = (1, 3), (1, 7)


BOUND = ["bound", "loads.json", "--redundant", "2", "--gpus", "3", "--json"]


def bound(folder: Path, target: object) -> Done:
    """``eplb-opt bound --json TARGET``."""
    (folder / "loads.json").write_text("[[4, 3, 2, 1]]")
    return eplb_opt(*BOUND, target, cwd=folder)


def device(folder: Path, numbers: tuple[int, int], standard: str) -> Path:
    """A device to write to: one of our own for root, who could destroy the machine's."""
    if os.geteuid() != 0:
        return Path(standard)
    path = folder / Path(standard).name
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(*numbers))
        path.open("wb").close()
    except OSError:
        pytest.skip("no devices can be made here")
    return path


def is_document(text: str) -> bool:
    return json.loads(text)["schema"] == "eplb-opt/solve/1"


def test_a_device_stays_a_device(tmp_path):
    null = device(tmp_path, NULL, "/dev/null")
    (tmp_path / "link").symlink_to(null)
    for target in (null, tmp_path / "link"):
        assert bound(tmp_path, target).returncode == 0
        assert stat.S_ISCHR(null.stat().st_mode)


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path):
    full = device(tmp_path, FULL, "/dev/full")
    result = bound(tmp_path, full)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "No space left on device" in result.stderr
    assert str(full) in result.stderr


def test_a_fifo_is_written_to_its_reader(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with subprocess.Popen(["cat", fifo], stdout=subprocess.PIPE, text=True) as reader:
        assert bound(tmp_path, fifo).returncode == 0
        assert is_document(reader.communicate(timeout=60)[0])
    assert stat.S_ISFIFO(fifo.stat().st_mode)


@pytest.mark.slow
def test_dev_stdout_is_printed_before_the_table(tmp_path):
    (tmp_path / "loads.json").write_text("[[4, 3, 2, 1]]")
    piped = eplb_opt_process(*BOUND, "/dev/stdout", cwd=tmp_path).stdout
    document = json.JSONDecoder().raw_decode(piped)[0]
    assert document["schema"] == "eplb-opt/solve/1"
    redirected = tmp_path / "out"
    with redirected.open("w") as stream:
        stream.write("before\n")
        stream.flush()
        command = [*PROGRAM, *BOUND, "/dev/stdout"]
        subprocess.run(command, cwd=tmp_path, stdout=stream, check=True)
    text = redirected.read_text()
    assert text.startswith('before\n{\n "schema"')
    assert "lower bound" in text.split("\n}\n")[1]


def test_process_substitution_is_written(tmp_path):
    read, write = os.pipe()
    with os.fdopen(read) as reader:
        assert bound(tmp_path, f"/dev/fd/{write}").returncode == 0
        os.close(write)
        assert is_document(reader.read())


def test_a_folder_a_socket_and_a_missing_folder_are_one_line_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        for name, problem in {
            "folder": "Is a directory",
            "socket": "No such device or address",
            "none/file": "No such file or directory",
        }.items():
            with pytest.raises(OSError, match=f"{problem}: '{tmp_path / name}'"):
                replace_file(tmp_path / name, b"")
    result = bound(tmp_path, tmp_path / "folder")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "loads.json", "socket"]


def test_permissions_of_the_old_file_stay_and_a_new_one_follows_the_umask(tmp_path):
    path = tmp_path / ("n" * 255)
    replace_file(path, b"1")
    probe = tmp_path / "probe"
    probe.touch()
    assert path.stat().st_mode == probe.stat().st_mode
    path.chmod(0o640)
    replace_file(path, b"2")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"2", 0o640)


def test_an_interrupt_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("old")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace_file(path, b"new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link_and_may_dangle(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for content in (b"first", b"second"):
        replace_file(tmp_path / "link", content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "target").read_bytes() == content
