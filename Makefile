# 目标：run 打开工作台；test 跑全部测试；check 静态检查；locale 重建译文；keys 重写键的页面；pictures 重拍图；snapshots 重存各屏的快照；setup 只安装。
PYTHON ?= python3
PY := .venv/bin/python
# 测试并行的进程数；每个进程里 torch 只用一个线程
JOBS ?= 2

.PHONY: setup run test check locale keys pictures snapshots

setup: .venv/.ready

# constraints.txt 固定每一个版本；装到一半失败时没有 .ready，下次从头来
.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

run: setup
	$(PY) -m workbench

test: setup
	$(PY) -m pytest -n $(JOBS) --dist loadgroup

check: setup
	$(PY) -m ruff check .
	$(PY) -m mypy

locale: setup
	$(PY) tests/locale_tool.py

keys: setup
	$(PY) tests/keys_tool.py

pictures: setup
	$(PY) tests/pictures_tool.py

snapshots: setup
	$(PY) -m pytest -n $(JOBS) --dist loadgroup --snapshot-update tests/test_snapshots.py
