# A fresh machine needs cargo, python3 (3.10 or later) with pip, make and a C compiler. Everything else is set up here.
.PHONY: help build test lint demo shop bench soak fuzz clean

help:   ## say what there is
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' Makefile

build:  ## leave a virtual environment in .venv with the release build of tezkor importable
	@scripts/build

test: build  ## run all tests; the last line counts them
	@scripts/packages scripts/requirements-demo.txt && .venv/bin/python scripts/test.py

lint: build  ## check formats and lints of Rust and Python
	@scripts/lint

demo: build  ## send a real shop the same load without a cache, with LocMemCache and with Tezkor, and compare
	@scripts/packages scripts/requirements-demo.txt && .venv/bin/python examples/shop/demo.py

shop: build  ## leave the demo's shop running, to click through
	@scripts/packages scripts/requirements-demo.txt && .venv/bin/python examples/shop/serve.py

bench: build  ## measure side by side with the peers: make bench TRACES=dir ONLY=get ARGS=--quick
	@scripts/bench $(if $(TRACES),--traces "$(TRACES)") $(if $(ONLY),--only "$(ONLY)") $(ARGS)

soak: build  ## run the tests with their long profiles
	@scripts/packages scripts/requirements-demo.txt && SOAK=1 .venv/bin/python scripts/test.py

fuzz:   ## fuzz every decoder: make fuzz SECONDS=600
	@scripts/fuzz $(or $(SECONDS),60)

clean:  ## remove everything that was built or downloaded
	@rm -rf .venv .cache target fuzz/target fuzz/corpus fuzz/artifacts python/tezkor/_native*.so .pytest_cache .ruff_cache .mypy_cache
