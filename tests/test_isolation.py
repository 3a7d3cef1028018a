"""Who shares a region, and who does not. Each process here is a real one."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

from tezkor import isolation
from tezkor.backends import TezkorCache

SET = "from django.core.cache import cache; cache.set('a', 'shared')"
GET = "from django.core.cache import cache; print(cache.get('a'), cache.location)"
SHARED = "{'default': {'BACKEND': 'tezkor.backends.TezkorCache', 'OPTIONS': {'TEST': {'SHARED': True}}}}"


def test_processes_of_one_project_share(project):
    project.python(SET)
    assert project.python(GET) == "shared shared://"
    code = "import django; django.setup()\n" + GET
    assert project.run("manage.py", "shell", "-c", code).strip().endswith("shared shared://")


def test_settings_modules_do_not_meet(project):
    project.settings("staging")
    project.python(SET)
    assert project.python(GET, settings="staging").startswith("None")


def test_checkouts_do_not_meet(projects):
    one, other = projects("one"), projects("other")
    one.python(SET)
    assert other.python(GET).startswith("None")
    assert one.python(GET).startswith("shared")


def test_named_regions_and_region_options_are_for_several_projects(projects):
    one, other = projects("one"), projects("other")
    for entry in ("'LOCATION': 'shared://both'", "'OPTIONS': {'REGION': 'both-2'}"):
        for each in (one, other):
            each.settings("shop", f"{{'default': {{'BACKEND': 'tezkor.backends.TezkorCache', {entry}}}}}")
        one.python(SET)
        assert other.python(GET).startswith("shared")


def test_a_location_without_a_scheme_is_a_name_space_in_the_own_region(project):
    project.settings(
        "shop",
        "{alias: {'BACKEND': 'tezkor.backends.TezkorCache', 'LOCATION': place} "
        "for alias, place in {'default': '', 'snow': 'unique-snowflake', 'named': 'shared://x'}.items()}",
    )
    project.python("from django.core.cache import caches\nfor name in caches: caches[name].set('a', name)")
    project.python("from django.core.cache import caches\ncaches['snow'].clear()")
    read = "from django.core.cache import caches\nprint([caches[name].get('a') for name in caches])"
    assert project.python(read) == "['default', None, 'named']"


def test_release_folders_behind_one_link_share(tmp_path, projects):
    """A deploy makes a new folder and moves the link ``current``; the cache stays warm."""
    releases = [projects("release1"), projects("release2")]
    current = tmp_path / "current"
    read = "from django.core.cache import cache; print(cache.get_or_set('release', 'first'))"
    for release in releases:
        current.unlink(missing_ok=True)
        current.symlink_to(release.folder)
        release.write("work.py", read)
        assert release.run(str(current / "work.py"), cwd=tmp_path).strip() == "first"
        assert release.run("work.py", cwd=current, PWD=str(current)).strip() == "first"
        typed = release.run(
            "-c", read, cwd=current, PWD=str(current), PYTHONPATH=release.environ["PYTHONPATH"]
        )
        assert typed.strip() == "first"
        release.write("work.py", read.replace("first", "second"))
    assert releases[0].run("work.py").strip() == "second"  # the folder itself is another project


def test_settings_configure_names_the_region_by_the_program(project):
    program = """
        from django.conf import settings
        settings.configure(CACHES={"default": {"BACKEND": "tezkor.backends.TezkorCache"}})
        from django.core.cache import cache
        print(cache.add("a", 1))
        """
    for name in ("one.py", "other.py"):
        project.write(name, program)
    assert [project.run(name).strip() for name in ("one.py", "one.py", "other.py")] == [
        "True",
        "False",
        "True",
    ]


def test_the_region_does_not_depend_on_override_settings(project):
    project.python(
        f"""
        {SET}
        from django.test import override_settings
        with override_settings(CACHES={{"default": {{"BACKEND": "tezkor.backends.TezkorCache", "KEY_PREFIX": ""}}}}):
            assert cache.get("a") == "shared"
        """
    )


# ------------------------------------------------------------------------------------------------------ test runners

DJANGO_TEST = """
    from django.core.cache import cache
    from django.test import SimpleTestCase

    class Tests(SimpleTestCase):
        def test_private(self):
            print("seen:", cache.get("a"), cache.location)
            cache.set("a", "from a test")
    """
PYTEST_TEST = """
    import pytest

    @pytest.mark.parametrize("number", range(2))
    def test_private(number):
        from django.core.cache import cache
        print("seen:", cache.get("a"), cache.location)
        cache.set("a", "from a test")
    """


def test_django_tests_are_private(project):
    project.write("test_it.py", DJANGO_TEST)
    project.python(SET)
    assert "seen: None memory://" in project.run("manage.py", "test")
    assert project.python(GET).startswith("shared")


def test_an_app_that_uses_the_cache_before_the_tests_start_is_private_too(project):
    project.write("early/__init__.py", "")
    project.write(
        "early/apps.py",
        """
        from django.apps import AppConfig

        class Early(AppConfig):
            name = "early"

            def ready(self):
                from django.core.cache import cache
                cache.set("a", "early")
        """,
    )
    project.write(
        "shop.py", (project.folder / "shop.py").read_text().replace("['tezkor']", "['tezkor', 'early']")
    )
    project.write("test_it.py", DJANGO_TEST)
    assert "seen: early memory://" in project.run("manage.py", "test")
    assert project.python(GET).startswith("None")


def test_parallel_workers_are_private(project):
    project.settings("shop")
    for number in range(4):
        project.write(f"test_{number}.py", DJANGO_TEST)
    project.python(SET)
    output = project.run("manage.py", "test", "--parallel", "2")
    assert "Ran 4 tests" in output
    assert output.count("memory://") == output.count("seen:")
    assert "seen: shared" not in output
    assert project.python(GET).startswith("shared")


@pytest.mark.parametrize("arguments", [(), ("-p", "no:tezkor"), ("-n", "2")])
def test_pytest_is_private(project, arguments):
    project.write("test_it.py", PYTEST_TEST)
    project.python(SET)
    output = project.run("-m", "pytest", "-q", "-rP", "-p", "no:cacheprovider", *arguments)
    assert "2 passed" in output
    assert "seen: None memory://" in output
    assert "seen: shared" not in output
    assert project.python(GET).startswith("shared")


def test_plain_unittest_is_private(project):
    project.write("test_it.py", DJANGO_TEST)
    project.python(SET)
    assert "seen: None memory://" in project.run("-m", "unittest", "test_it")


def test_a_process_that_a_test_starts_is_an_ordinary_one(project):
    project.python(SET)
    assert project.python(GET, PYTEST_VERSION="9", PYTEST_CURRENT_TEST="x").startswith("shared")


def test_the_option_shared_holds_under_test_runners(project):
    project.settings("shop", SHARED)
    project.write("test_it.py", DJANGO_TEST)
    project.python(SET)
    assert "seen: shared shared://" in project.run("manage.py", "test")
    assert project.python(GET).startswith("from a test")


def test_two_runs_of_one_project_do_not_meet(project):
    project.write("test_it.py", DJANGO_TEST)
    for _ in range(2):
        assert "seen: None" in project.run("manage.py", "test")


def test_a_program_that_imports_pytest_is_no_test_runner(project):
    project.python(SET)
    assert project.python("import pytest, unittest\n" + GET).startswith("shared")


# ------------------------------------------------------------------------------------------------- forks and threads

CHILDREN = 32


def test_children_of_a_fork_and_their_parent_go_on_working(project):
    output = project.python(
        f"""
        import os
        from django.core.cache import cache
        from tezkor import cache as ours
        cache.set("n", 0)
        cache.set("parent", ["value"])
        children = []
        for number in range({CHILDREN}):
            child = os.fork()
            if child == 0:
                try:
                    assert cache.get("parent") == ["value"]
                    for _ in range(100):
                        ours.incr("n")
                    cache.set(f"child{{number}}", os.getpid())
                    assert ours.get(f"child{{number}}") == os.getpid()
                except BaseException as error:
                    print(error, flush=True)
                    os._exit(1)
                os._exit(0)
            children.append(child)
        assert all(os.waitpid(child, 0)[1] == 0 for child in children)
        cache.set("after", 1)
        assert all(cache.get(f"child{{number}}") == child for number, child in enumerate(children))
        print(cache.get("n"), cache.get("after"))
        """
    )
    assert output == f"{CHILDREN * 100} 1"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_shares(project, method):
    project.write(
        "work.py",
        f"""
        import multiprocessing
        from django.core.cache import cache

        def work(number):
            cache.set(f"child{{number}}", number)
            return cache.incr("n"), cache.get("parent")

        if __name__ == "__main__":
            cache.set_many({{"n": 0, "parent": "value"}})
            with multiprocessing.get_context("{method}").Pool(4) as pool:
                answers = pool.map(work, range({CHILDREN}), 1)
            assert sorted(number for number, _ in answers) == list(range(1, {CHILDREN} + 1))
            assert {{value for _, value in answers}} == {{"value"}}
            assert all(cache.get(f"child{{number}}") == number for number in range({CHILDREN}))
            print("good")
        """,
    )
    assert project.run("work.py").strip() == "good"


def test_processes_race_for_add_and_one_wins(project):
    project.write(
        "work.py",
        textwrap.dedent(
            """
            import os, time
            from django.core.cache import cache
            children = []
            start = time.time() + 0.5
            for number in range(4):
                if (child := os.fork()) == 0:
                    time.sleep(max(start - time.time(), 0))
                    os._exit(sum(cache.add(f"key{key}", number) for key in range(50)))
                children.append(child)
            print(sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
            """
        ),
    )
    assert project.run("work.py").strip() == "50"


def test_restarted_workers_find_the_cache_warm_in_a_folder_too(project):
    project.settings(
        "shop",
        f"{{'default': {{'BACKEND': 'tezkor.backends.FileBasedCache', 'LOCATION': '{project.folder}/store'}}}}",
    )
    project.python(SET)
    assert project.python(GET) == f"shared file://{project.folder}/store"


# ------------------------------------------------------------------------------------------- directories that fail


def test_a_folder_that_cannot_be_written_makes_a_private_cache_and_one_warning(project):
    """A file stands where the folder should be, which fails for every user, root too."""
    blocked = project.write("blocked", "a file")
    project.settings(
        "shop",
        "{alias: {'BACKEND': 'tezkor.backends.TezkorCache', 'VERSION': version, "
        f"'LOCATION': 'file://{blocked}/store'}} for alias, version in [('default', 1), ('other', 2)]}}",
    )
    output = project.python(
        """
        from django.core.cache import cache, caches
        cache.set("a", 1)
        assert cache.get("a") == 1
        assert caches["other"].get("a") is None
        """
    )
    assert len(output.splitlines()) == 1, output
    assert str(blocked) in output


def test_a_shared_directory_that_cannot_be_used_makes_a_private_cache_and_one_warning(project):
    blocked = project.write("blocked", "a file")
    output = project.python(
        "from django.core.cache import cache; cache.set('a', 1); assert cache.get('a') == 1",
        TEZKOR_SHARED_DIRECTORY=str(blocked / "shm"),
    )
    assert len(output.splitlines()) == 1, output


def test_the_region_is_the_users_own(monkeypatch):
    mine = isolation.own_region()
    assert isolation.own_region() == mine
    monkeypatch.setattr(isolation.os, "getuid", lambda: 12345)
    assert isolation.own_region() != mine


def test_an_instance_made_under_a_test_runner_says_nothing_of_one_made_without(monkeypatch, tmp_path):
    monkeypatch.setenv("TEZKOR_SHARED_DIRECTORY", str(tmp_path))
    params = {"OPTIONS": {"SIZE": "1MiB"}}
    assert TezkorCache("shared://runner", params).location.startswith("memory://")
    monkeypatch.setattr(isolation, "under_test_runner", lambda: False)
    assert TezkorCache("shared://runner", params).location == "shared://runner"


def test_a_handler_that_comes_later_does_not_end_the_process_when_the_file_is_cut(project):
    said = project.python("""
        import faulthandler, glob, os, time
        import django; django.setup()
        from django.core.cache import cache
        for number in range(2000):
            cache.set(f"k{number}", "x" * 1000)
        faulthandler.enable()
        time.sleep(0.3)
        cache.get("k0")
        (path,) = glob.glob(os.environ["TEZKOR_SHARED_DIRECTORY"] + "/*/*.region")
        os.truncate(path, 0)
        print(sum(cache.get(f"k{number}") is not None for number in range(2000)))
        time.sleep(0.3)
        cache.set("k", "after")
        print(cache.get("k"))
    """)
    assert "after" in said.splitlines()


def test_another_fault_still_ends_the_process_once_with_the_traceback_of_faulthandler(project):
    """The handler that was installed after ours sends the signal again, which comes to ours."""
    program = """
        import faulthandler, mmap, tempfile, time
        import django; django.setup()
        from django.core.cache import cache
        cache.set("a", 1)
        faulthandler.enable()
        time.sleep(0.3)
        cache.set("a", 2)
        file = tempfile.TemporaryFile()
        file.truncate(8192)
        mapped = mmap.mmap(file.fileno(), 8192)
        file.truncate(0)
        mapped[5000]
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=project.folder,
        env=project.environ | {"DJANGO_SETTINGS_MODULE": "shop"},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert ended.returncode == -signal.SIGBUS
    assert ended.stderr.count("Fatal Python error: Bus error") == 1


def test_without_memory_the_cache_is_small_or_tried_again_and_the_settings_are_not_blamed(project):
    said = project.python("""
        import resource, logging
        import django; django.setup()
        from django.core.cache import caches
        logging.disable()
        import tezkor.backends, tezkor.twins  # what is imported at the first use
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[0])
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        for room in (0, 6 << 20):
            resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + room, most))
            try:
                caches["default"].set("a", 1)
                print("works with", room, caches["default"].get("a"))
            except Exception as error:
                print(type(error).__name__, error)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        caches["default"].set("a", 2)
        print("works", caches["default"].get("a"))
    """)
    assert said.splitlines()[-1] == "works 2"
    for line in said.splitlines():
        assert line.startswith(("works", "MemoryError there is no memory for the cache"))
        assert "{" not in line
        assert "LOCATION" not in line


@pytest.mark.parametrize("mixin", ["ClearCaches, ", ""], ids=["cleared", "plain"])
def test_a_test_run_leaves_the_live_cache_alone_however_early_it_was_used(project, mixin):
    project.write("app/__init__.py", "")
    project.write("kept.py", "from django.core.cache import caches\ncache = caches['default']\n")
    project.write(
        "app/tests.py",
        f"""
        from django.core.cache import cache
        from django.test import SimpleTestCase
        import kept, tezkor
        from tezkor.test import ClearCaches

        class Tests({mixin}SimpleTestCase):
            def test_private_and_empty(self):
                for each in (cache, tezkor.cache, kept.cache):
                    self.assertIsNone(each.get("live"))
                    self.assertIn("memory://", each.location)
                for each in (cache, tezkor.cache, kept.cache):
                    each.set("live", "overwritten by a test")
                kept.cache.version = 2
                tezkor.cache.get("live")
        """,
    )
    project.write(
        "rt.py",
        """
        import django; django.setup()
        from django.core.cache import cache
        import kept, tezkor
        cache.get("x"), tezkor.cache.get("x"), kept.cache.get("x")  # as an AppConfig.ready() may do
        from django.conf import settings
        from django.test.utils import get_runner
        import sys
        sys.exit(get_runner(settings)(verbosity=0).run_tests(["app"]))
        """,
    )
    project.python(
        "import django; django.setup()\nfrom django.core.cache import cache; cache.set('live', 1, None)"
    )
    project.run("rt.py")
    assert (
        project.python(
            "import django; django.setup()\nfrom django.core.cache import cache; print(cache.get('live'))"
        )
        == "1"
    )


def test_a_live_cache_that_is_changed_in_a_run_without_checks_is_not_emptied(project):
    write = "from django.core.cache import cache; cache.set('live', 1, None)"
    project.python(write)
    project.python("""
        import django; django.setup()
        from django.core.cache import caches
        kept = caches["default"]
        kept.get("live")
        from django.test.utils import setup_test_environment
        setup_test_environment()
        kept.version = 2
        kept.get("live")
        from tezkor.test import clear_caches
        clear_caches()
        assert kept.location.startswith("memory://")
        assert kept.version == 2
    """)
    assert project.python("from django.core.cache import cache; print(cache.get('live'))") == "1"
