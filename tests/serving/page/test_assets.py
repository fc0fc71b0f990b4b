import hashlib
import shutil

import pytest
from fastapi.testclient import TestClient

from fibflow.serving.page import assets, routes
from fibflow.serving.page.assets import PageMissing


@pytest.fixture
def copied(tmp_path):
    """The page's files, to change them."""
    shutil.copytree(assets.STATIC, tmp_path / "static")
    (tmp_path / "library.mjs").write_text("export const a = 1;\n")
    return tmp_path


def load(folder):
    return assets.load(folder / "static", folder / "library.mjs")


def test_the_page_names_its_files_by_their_content(copied):
    before = load(copied)
    assert load(copied) == before
    (copied / "static" / "style.css").write_text("p { margin: 0 }")
    after = load(copied)
    assert after.version != before.version
    assert after.index.etag != before.index.etag
    assert f'href="page/{after.version}/style.css"'.encode() in after.index.body
    assert b"{{" not in after.index.body


def test_a_new_library_makes_a_new_version(copied):
    before = load(copied)
    (copied / "library.mjs").write_text("export const a = 2;\n")
    assert load(copied).version != before.version


def test_only_the_pages_kinds_of_files_are_served(copied):
    (copied / "static" / ".secret").write_text("x")
    (copied / "static" / "notes.txt").write_text("x")
    assert not {".secret", "notes.txt"} & set(load(copied).files)


def test_every_module_that_is_imported_is_there(copied):
    found = load(copied)
    for name, asset in found.files.items():
        for line in asset.body.decode().splitlines():
            if line.startswith(("import ", "} from")) and " from " in line:
                assert line.split('"')[1].removeprefix("./") in found.files, (name, line)


def test_without_the_library_a_line_says_what_to_do(copied):
    (copied / "library.mjs").unlink()
    with pytest.raises(PageMissing, match="run `make setup` in the checkout"):
        load(copied)


# Over HTTP -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loaded():
    return assets.load()


def test_the_page_is_asked_for_again_and_its_files_are_kept(client, loaded):
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-cache"
    file = client.get(f"/page/{loaded.version}/app.js")
    assert file.headers["content-type"] == "text/javascript; charset=utf-8"
    assert file.headers["cache-control"] == "public, max-age=31536000, immutable"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("style.css", "text/css; charset=utf-8"),
        ("lightweight-charts.js", "text/javascript; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    ],
)
def test_files_have_their_types(client, loaded, name, kind):
    answer = client.get(f"/page/{loaded.version}/{name}")
    assert answer.headers["content-type"] == kind
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.content == loaded.files[name].body


def test_what_a_browser_has_is_not_sent_again(client, loaded):
    for path in ("/", f"/page/{loaded.version}/app.js"):
        etag = client.get(path).headers["etag"]
        for known in (etag, f'"other", W/{etag}'):
            answer = client.get(path, headers={"If-None-Match": known})
            assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
        assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


def test_a_head_has_no_body(client):
    answer = client.head("/")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) > 1000


def test_another_versions_files_are_answered_and_not_kept(client, loaded):
    answer = client.get("/page/0123456789/app.js")
    assert answer.content == loaded.files["app.js"].body
    assert answer.headers["cache-control"] == "no-cache"


def test_nothing_comes_from_elsewhere_and_nothing_is_inline(client):
    page = client.get("/")
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    assert policy["frame-ancestors"] == "'none'"
    text = page.text
    assert "<style" not in text
    assert " style=" not in text
    assert " on" not in {part[:3] for part in text.replace("\n", " ").split('"')}
    links = [part.split('"')[0] for key in ("src=", "href=") for part in text.split(f'{key}"')[1:]]
    outside = [link for link in links if "//" in link]
    # The licence of the chart library asks for this one; it is followed by whoever clicks it.
    assert outside == ["https://www.tradingview.com/"]


@pytest.mark.parametrize(
    "path",
    [
        "/page/x/../../setup.py",
        "/page/x/..%2f..%2fsetup.py",
        "/page/x/%2e%2e/%2e%2e/%2e%2e/setup.py",
        "/page/..%2f..%2f/etc/passwd",
        "/page/x//etc/passwd",
        "/page/x/..\\..\\setup.py",
        "/page/x/routes.py",
        "/page/x/index.html",
        "/page/x/app.js%00.css",
        "/page/x/.git",
        "/page/x/",
        "/page/",
    ],
)
def test_no_path_leads_out_of_the_page(client, path):
    answer = client.get(path)
    assert answer.status_code in (400, 404)
    assert b"import" not in answer.content


def test_without_the_library_the_page_says_so_and_the_api_goes_on(open_app, monkeypatch, tmp_path):
    routes._assets.cache_clear()
    library = tmp_path / "library.mjs"
    monkeypatch.setattr(assets.load, "__defaults__", (assets.STATIC, library))
    try:
        with TestClient(open_app) as client:
            page = client.get("/")
            assert page.status_code == 404
            assert page.headers["cache-control"] == "no-store"
            assert "run `make setup`" in page.text
            assert client.get("/page/x/app.js").json()["code"] == "no_page"
            assert client.get("/openapi.json").status_code == 200
            # As soon as it is there, so is the page.
            library.write_text("export const a = 1;\n")
            assert client.get("/").status_code == 200
    finally:
        routes._assets.cache_clear()


def test_the_library_is_the_one_that_the_lock_names():
    lock = (assets.HERE / "package-lock.json").read_text()
    assert '"integrity": "sha512-' in lock
    # Where packages come from is each machine's own business.
    assert "resolved" not in lock
    assert "lightweight-charts" in lock
    assert hashlib.sha256(assets.LIBRARY.read_bytes()).digest()
