import os
import stat

import pytest

from dnadiff.errors import InputError
from dnadiff.files import atomic_path, empty_folder, write_text


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_have_the_permissions_of_the_umask(tmp_path, umask):
    """Also where the writer gives them others, as that of safetensors does."""
    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / "private") as temporary:
            temporary.touch(mode=0o600)
        write_text(tmp_path / "text", "x")
    finally:
        os.umask(before)
    for name in ("private", "text"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~umask
    assert {path.name for path in tmp_path.iterdir()} == {"private", "text"}


def test_an_error_leaves_neither_file_nor_folder(tmp_path):
    for make in ("touch", "mkdir"):
        with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "out") as temporary:
            getattr(temporary, make)()
            raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_none_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: is a file, a folder is needed"):
        empty_folder(tmp_path / "file")
    with pytest.raises(InputError, match="not empty; choose another"):
        empty_folder(tmp_path)
