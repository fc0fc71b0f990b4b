from __future__ import annotations

import pytest

from fibflow.io.vendor.access import OFFICIAL, vendor_key, vendor_url
from fibflow.io.vendor.errors import WrongKey


def test_the_key_comes_from_the_file_then_from_the_environment(tmp_path):
    file = tmp_path / "key"
    file.write_text(" of-the-file\n")
    environ = {"MASSIVE_API_KEY": "massive", "POLYGON_API_KEY": "polygon"}
    assert vendor_key(environ, str(file)) == "of-the-file"
    assert vendor_key(environ) == "massive"
    assert vendor_key({"MASSIVE_API_KEY": " ", "POLYGON_API_KEY": "polygon"}) == "polygon"


@pytest.mark.parametrize(
    "text", ["", "  \n", "two words", "tab\tinside", "k\N{LATIN SMALL LETTER E WITH ACUTE}y"]
)
def test_what_can_be_no_key_is_refused_without_being_shown(text, tmp_path):
    file = tmp_path / "key"
    file.write_text(text, "utf-8")
    for environ, path in (({"POLYGON_API_KEY": text}, None), ({}, str(file))):
        with pytest.raises(WrongKey) as error:
            vendor_key(environ, path)
        assert "--key-file" in str(error.value)
        assert not text.strip() or text.strip() not in str(error.value)


def test_a_key_file_that_cannot_be_read_is_one_line(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(WrongKey, match="cannot be read") as error:
            vendor_key({}, str(path))
        assert "\n" not in str(error.value)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WrongKey, match="no text"):
        vendor_key({}, str(tmp_path / "binary"))


def test_a_key_in_place_of_its_files_name_is_not_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for content in (None, "", "two words"):
        if content is not None:
            (tmp_path / "a-secret-key").write_text(content)
        with pytest.raises(WrongKey, match="the file that --key-file names") as error:
            vendor_key({}, "a-secret-key")
        assert "a-secret-key" not in str(error.value)


def test_the_address_is_the_one_given_then_the_environments_then_the_vendors():
    assert vendor_url({}) == OFFICIAL
    assert vendor_url({"FIBFLOW_VENDOR_URL": "http://there:1/"}) == "http://there:1"
    assert vendor_url({"FIBFLOW_VENDOR_URL": "http://there:1"}, "https://here/path/") == "https://here/path"


@pytest.mark.parametrize(
    "url",
    [
        "here",
        "ftp://here",
        "http://",
        "http://a:b@here",
        "http://here?key=1",
        "http://here:port",
        "http://[x",
    ],
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ValueError, match="--vendor-url"):
        vendor_url({}, url)
