"""`publish`: feeds and pages of reasons as a folder that takes the place of the old one, and `rules export` of one."""

import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from shell import Shell

import sparkle_lite
from sparkle_lite.cli.main import main
from sparkle_lite.http.web import static_site
from sparkle_lite.rules.feed_rendering import NAMES
from sparkle_lite.texts import languages

MANUAL = Path(sparkle_lite.__file__).parent / "manual"

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], folder: Path) -> Shell:
    shell = Shell(capsys)
    shell("user", "add", "bob")
    for target in ("203.0.113.0/24", "198.51.100.7", "2001:db8::1"):
        shell("rules", "deny", target)
    shell("rules", "allow", "203.0.113.9")
    return shell


def state(site: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file: its number and its time on the disk, and its content."""
    files = [path for path in site.rglob("*") if path.is_file()]
    return {str(p.relative_to(site)): (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes()) for p in files}


def test_a_feed_is_exported_as_it_is_published(shell: Shell, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shell("publish", "site")
    for name in NAMES:
        assert shell("rules", "export", "--format", name).encode() == (folder / "site" / "feeds" / name).read_bytes()
    shell("rules", "export", "list.dat", "--format", "ipfilter.dat")
    assert (folder / "list.dat").read_bytes() == (folder / "site" / "feeds" / "ipfilter.dat").read_bytes()
    with pytest.raises(SystemExit) as ended:
        main(["rules", "export", "--format", "ipfilter"])
    assert ended.value.code == 2
    assert "choose from text, jsonl, cidr.txt" in capsys.readouterr().err


def test_the_site_tells_why_an_address_is_listed_in_every_language(shell: Shell, folder: Path) -> None:
    assert shell("publish", "site", "--url", "https://rules.example.org/") == "site: 20 files, 20 of them changed.\n"
    site = folder / "site"
    pages = {path: path.read_text("utf-8") for path in site.rglob("*.html")}
    for path, page in pages.items():
        for link in re.findall(r'(?:href|src)="([^"#]+)"', page):
            assert (path.parent / link).is_file(), (path, link)
        assert "<script" not in page
    for language, sentence in zip(languages(), ("listed by the operator", "由本服务器"), strict=True):
        page = (site / language / "reasons" / "ipv4.html").read_text("utf-8")
        assert 'id="198.51.100.7"' in page
        assert 'id="203.0.113.128/25"' in page and "203.0.113.9<" not in page
        assert sentence in page and re.search(r"\d{4}-\d\d-\d\d", page)
        index = (site / language / "index.html").read_text("utf-8")
        assert "curl -fsS -o ipfilter.dat &#39;https://rules.example.org/feeds/ipfilter.dat&#39;" in index


def test_whoever_a_list_is_owed_to_is_named_while_something_of_it_is_in_force(shell: Shell, folder: Path) -> None:
    entry = '[[imports]]\nname = "{0}"\nfile = "{0}.txt"\ncredit = "{0} by <b>& others, CC BY 4.0"\n'
    (folder / "config.toml").write_text(entry.format("mine") + entry.format("none"))
    (folder / "mine.txt").write_text("198.51.100.9\n")
    shell("imports", "run", "mine")
    shell("publish", "site")
    site = folder / "site"
    comment = "# With entries of the list mine: mine by b others, CC BY 4.0\n"
    for name in ("cidr.txt", "pbh.txt", "nftables.conf", "ipset.txt", "routeros.rsc"):
        text = (site / "feeds" / name).read_text()
        assert text.count("With entries") == text.count(comment) == 1, name
    for language in languages():
        for page in ("index.html", "reasons/ipv4.html"):
            text = (site / language / page).read_text("utf-8")
            assert "mine by &lt;b&gt;&amp; others, CC BY 4.0" in text and "none by" not in text
    shell("rules", "pardon", "198.51.100.9")
    shell("publish", "site")
    assert not any(b"CC BY" in content for _, _, content in state(site).values())


def test_a_long_page_is_split_by_the_numbers_of_its_addresses(
    shell: Shell, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_site, "_LONGEST_PAGE", 2)
    shell("publish", "site")
    names = {path.name for path in (folder / "site" / "en" / "reasons").iterdir()}
    # Eight parts of the /24 around the exception share their first three numbers.
    fourth = {f"203.0.113.{last}.html" for last in (0, 8, 10, 12, 16, 32, 64, 128)}
    assert names == {"198.html", "ipv6.html", *fourth}


def test_publishing_again_touches_nothing_that_is_the_same(shell: Shell, folder: Path) -> None:
    site = folder / "site"
    shell("publish", "site")
    before, number = state(site), site.stat().st_ino
    assert shell("publish", "site") == "site: 20 files, nothing has changed.\n"
    assert (state(site), site.stat().st_ino) == (before, number)

    shell("rules", "deny", "2001:db8::2")
    shell("publish", "site")
    after = state(site)
    kept = {name for name in before if before[name] == after.get(name)}
    assert kept >= {
        "feeds/cidr4.txt",
        "feeds/transmission.txt",
        "feeds/peerguardian.p2p",
        "en/reasons/ipv4.html",
        "app.css",
    }
    assert {name for name in before if before[name][2] == after[name][2]} == kept

    # What is no longer made is gone.
    for target in ("2001:db8::1", "2001:db8::2"):
        shell("rules", "pardon", target)
    shell("publish", "site")
    assert not (site / "en" / "reasons" / "ipv6.html").exists()


def test_what_somebody_else_put_there_is_kept_and_never_overwritten(shell: Shell, folder: Path) -> None:
    site = folder / "site"
    site.mkdir()
    (site / "photo").write_text("mine")
    assert "files that publish didn't make" in (shell("publish", "site", status=1) or shell.err)
    assert [path.name for path in site.iterdir()] == ["photo"]
    (site / "photo").unlink()
    site.chmod(0o750)
    shell("publish", "site")
    assert site.stat().st_mode & 0o777 == 0o750

    (site / "CNAME").write_text("rules.example.org")
    (site / "en" / "mine").mkdir()
    (site / "en" / "mine" / "page").write_text("mine")
    (site / ".git").mkdir()
    (site / ".git" / "HEAD").write_text("ref")
    (site / "link").symlink_to("/nowhere")
    shell("rules", "deny", "198.51.100.8")
    shell("publish", "site")
    assert (site / "CNAME").read_text() == "rules.example.org"
    assert (site / "en" / "mine" / "page").read_text() == "mine"
    assert (site / ".git" / "HEAD").read_text() == "ref"
    assert (site / "link").is_symlink()

    # One of ours that is a stranger's now: what it was is no longer ours to replace.
    shell("rules", "pardon", "2001:db8::1")
    shell("publish", "site")
    (site / "en" / "reasons" / "ipv6.html").write_text("mine")
    shell("rules", "deny", "2001:db8::3")
    before = state(site)
    assert "en/reasons/ipv6.html" in (shell("publish", "site", status=1) or shell.err)
    assert state(site) == before
    assert left_beside(site) == []


def test_a_run_that_was_ended_half_way_is_gone_on_with(
    shell: Shell, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = folder / "site"
    shell("publish", "site")
    (site / "CNAME").write_text("rules.example.org")
    rename, renames = Path.rename, 0
    # The old folder aside, the new one in its place, then what isn't ours from one to the other.
    for broken_at in (1, 2, 3):

        def breaks(path: Path, target: Path, at: int = broken_at) -> Path:
            nonlocal renames
            renames += 1
            if renames == at:
                raise OSError("the power went out")
            return rename(path, target)

        renames = 0
        before = (site / "feeds" / "cidr.txt").read_bytes()
        shell("rules", "deny", f"192.0.{broken_at}.1")
        with monkeypatch.context() as patched:
            patched.setattr(Path, "rename", breaks)
            assert "the power went out" in (shell("publish", "site", status=1) or shell.err)
        assert ((site / "feeds" / "cidr.txt").read_bytes() == before) == (broken_at < 3)
        shell("publish", "site")
        assert (site / "CNAME").read_text() == "rules.example.org"
        assert f"192.0.{broken_at}.1/32\n".encode() in (site / "feeds" / "cidr.txt").read_bytes()
        assert left_beside(site) == []

    # The worst that a cut of power leaves: the old folder aside, and none in its place.
    site.rename(site.with_name(".site.sparkle-last"))
    assert shell("publish", "site") == "site: 20 files, nothing has changed.\n"
    assert left_beside(site) == []


def test_what_a_cut_of_power_leaves_is_in_nobody_s_way_and_a_folder_of_somebody_else_stays(
    shell: Shell, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, marker = folder / "site", ".sparkle-lite.json"
    # Ended before the marker, and in the midst of it.
    for number, name in enumerate((".site.sparkle-next", ".site.sparkle-next-0123abcd")):
        for half in (None, b"", b'{"files": ["a'):
            (folder / name).mkdir()
            if half is not None:
                (folder / name / marker).write_bytes(half)
            shell("rules", "deny", f"192.0.{number}.{len(half or b'x')}")
            shell("publish", "site")
            assert left_beside(site) == []

    # Ended while the last state was being deleted.
    rmtree = shutil.rmtree

    def breaks(place: Path) -> None:
        rmtree(place)
        raise OSError("the power went out")

    shell("rules", "deny", "192.0.9.1")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", breaks)
        shell("publish", "site", status=1)
    assert len(left_beside(site)) == 1
    shell("publish", "site")
    assert left_beside(site) == []

    # What only looks like ours.
    theirs = [folder / f".site.sparkle-{state}{run}" for state in ("next", "last") for run in ("", "-0123abcd")]
    theirs += [folder / ".site.sparkle-next-mine", folder / ".site.sparkle-next.sparkle-next"]
    for each in theirs:
        each.mkdir()
        (each / "photo").write_text("mine")
        (each / marker).write_text("mine")
    (folder / ".site.sparkle-next-ffffffff").symlink_to(site)
    shell("rules", "deny", "192.0.9.2")
    shell("publish", "site")
    assert all((each / "photo").read_text() == "mine" for each in theirs)
    assert (folder / ".site.sparkle-next-ffffffff").is_symlink() and (site / marker).is_file()


def left_beside(site: Path) -> list[str]:
    return [path.name for path in site.parent.iterdir() if "sparkle-" in path.name]


def test_a_folder_that_is_no_place_is_said_so(shell: Shell, folder: Path) -> None:
    assert "is not a folder" in (shell("publish", "none/site", status=1) or shell.err)
    (folder / "file").write_text("")
    assert "didn't make" in (shell("publish", "file", status=1) or shell.err)
    assert "didn't make" in (shell("publish", ".", status=1) or shell.err)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "under way" in (shell("publish", "site", status=1) or shell.err)
    finally:
        os.close(lock)
    assert not (folder / "site").exists()


def test_a_repository_sees_only_what_has_changed(shell: Shell, folder: Path) -> None:
    def git(*arguments: str) -> str:
        who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        ended = subprocess.run(["git", *who, *arguments], capture_output=True, text=True, check=True, cwd=folder)
        return ended.stdout

    git("init", "-q")
    shell("publish", "site")
    git("add", "site")
    git("commit", "-qm", "Rules")
    shell("publish", "site")
    assert git("status", "--porcelain", "site") == ""
    shell("rules", "deny", "2001:db8::2")
    shell("publish", "site")
    assert "cidr4" not in git("status", "--porcelain", "site")
    assert "cidr6" in git("status", "--porcelain", "site")


def recipe_of(language: str) -> str:
    """What the manual gives cron for a site in a repository, without comments."""
    manual = (MANUAL / language / "feeds.md").read_text("utf-8")
    [recipe] = [part for part in re.findall(r"```sh\n(.*?)```", manual, re.DOTALL) if "git push" in part]
    return re.sub(r" +# .*", "", recipe)


def test_the_recipe_of_the_manual_pushes_what_a_failed_push_left_behind(shell: Shell, folder: Path) -> None:
    [recipe] = {recipe_of(language) for language in languages()}
    program = f"{shlex.quote(sys.executable)} -m sparkle_lite publish"
    recipe = recipe.replace("/srv/rules", "clone").replace("sparkle-lite publish", program, 1)
    recipe = re.sub(r"--config \S+", "--config ../config.toml", recipe)
    (folder / "config.toml").touch()
    who = {f"GIT_{role}_{what}": "x@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **who, "PYTHONPATH": str(MANUAL.parents[1]), "GIT_CONFIG_GLOBAL": os.devnull}

    def run(command: str) -> tuple[int, str]:
        ended = subprocess.run(
            ["sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        return ended.returncode, ended.stdout

    assert run("git init -q --bare bare && git clone -q bare clone && mv bare away")[0] == 0
    assert run(recipe)[0] != 0
    (folder / "away").rename(folder / "bare")
    assert run(recipe) == (0, "site: 20 files, nothing has changed.\n")
    assert "198.51.100.7/32\n" in run("git -C bare show HEAD:site/feeds/cidr.txt")[1]
