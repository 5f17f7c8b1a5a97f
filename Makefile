# 目标：run 打开工作台；test 跑全部测试；check 静态检查；locale 重建译文；keys 重写键的页面；pictures 重拍图；snapshots 重存各屏的快照；setup 只安装。
PYTHON ?= python3
PY := .venv/bin/python
# 测试并行的进程数；每个进程里 torch 只用一个线程，而许多测试只是在等，所以比核多一个
JOBS ?= 3
# 字节码总是存下：不少镜像里设了它，每个进程就都要重新编译
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup run test check locale keys pictures snapshots

setup: .venv/.ready

# constraints.txt 固定每一个版本；装到一半失败时没有 .ready，下次从头来。只编译起动时导入的，别的用到时再说：省下一半多的时间
.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	$(PY) -c 'import nanogpt.train, nanogpt.generation, torch._inductor.compile_fx, workbench.app'
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
	NANOGPT_WORKBENCH_SLOW=1 $(PY) -m pytest -n $(JOBS) --dist loadgroup --snapshot-update tests/test_snapshots.py
