# make demo   a detector in a real ROS 2 graph on a camera stream, then a table and pictures in demo_output/
# make test   the tests              make lint    ruff           make types   mypy
# make clean  removes .venv and everything built
# All of them first set up .venv and build the messages, which is done again only after a change.
# Another Python:  make PYTHON=python3.12 test

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := PYTHONWARNINGS="ignore:Editable installation" $(RUN) -m pip install --disable-pip-version-check

# ROS 2 comes from the distribution that is sourced, seen through the system's site-packages, or else from PyPI.
ifdef ROS_DISTRO
VENV_FLAGS := --system-site-packages
REQUIREMENTS := ".[training,label,bags,sim,dev]"
# The distribution's cv_bridge was compiled for OpenCV 4, up to Kilted for NumPy 1 too; its launch_pytest wants a pytest
# below 8.4.
REQUIREMENTS += "opencv-python-headless<5" "pytest<8.4" $(if $(filter humble jazzy kilted,$(ROS_DISTRO)),"numpy<2")
else
VENV_FLAGS :=
REQUIREMENTS := ".[training,label,bags,sim,ros,dev]"
endif

# The rest of what DDS wants in the environment the demo and the tests set themselves.
export ROS_DOMAIN_ID ?= $(shell echo $$(( $$$$ % 101 + 1 )))

.PHONY: demo samples test lint types messages clean same-python same-ros

demo: messages
	@$(VENV)/bin/flowclas demo

# Needs the kit (FLOWCLAS_KIT) and some hours on two cores: half an hour to render orbit, 95 minutes for its backbone,
# half as long for the road.
samples: messages
	@$(RUN) tools/build_samples.py

test: messages
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -m "not alone" -n 2 --dist loadfile
	@$(RUN) -m pytest -m alone

lint: $(VENV)/installed
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .

types: messages
	@$(RUN) -m mypy

messages: $(VENV)/installed
	@$(RUN) tools/build_messages.py

# pip 23.0, which comes with Python 3.10, weighs CUDA's wheels against these extras without end: a newer one first.
# pip's standard output is cut down to what takes time and which requirements conflict, its standard error to what is
# wrong: pip warns of every package that one of several indexes does not have. pipefail hands on its exit status.
$(VENV)/installed: setup.py pyproject.toml | same-python same-ros
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < $(if $(ROS_DISTRO),(4,),(3, 14)))' || \
	  { echo "error: $$($(PYTHON) --version) is not one of 3.10 to 3.13: make PYTHON=python3.12 ..." >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "error: $(PYTHON) cannot make virtual environments: sudo apt install python3-venv" >&2; exit 2; }
	@echo "Setting up $(VENV) (once; one to five minutes, most of it PyTorch) ..."
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV_FLAGS) $(VENV)
	@$(RUN) -m pip --version >/dev/null 2>&1 || $(RUN) -m ensurepip >/dev/null  # the last time broke off between the two
	@{ { $(PIP) --quiet "pip>=25" && $(PIP) --progress-bar off --editable $(REQUIREMENTS); } \
	    2>&1 >&3 | sed -u -E '/^ *WARNING: /d' >&2; } 3>&1 | \
	  sed -u -n -E 's/^ *(Downloading .*MB\))/  \1/p; s/^(Installing collected packages):.*/  \1 .../p; /^The conflict is/,$$p'
	@echo "$(or $(ROS_DISTRO),PyPI)" >$(VENV)/ros
	@touch $@

# Two ROS 2 are not mixed: what was built for one does not load beside the other.
same-ros:
	@if [ -f $(VENV)/ros ] && [ "$$(cat $(VENV)/ros)" != "$(or $(ROS_DISTRO),PyPI)" ]; then \
	    echo "error: $(VENV) has the ROS 2 of $$(cat $(VENV)/ros), asked for is that of $(or $(ROS_DISTRO),PyPI):" \
	      "make clean first" >&2; exit 2; fi

# A Python that was asked for is not quietly another one.
same-python:
ifneq ($(origin PYTHON),file)
	@version='import sys; print("%d.%d" % sys.version_info[:2])'; \
	  if [ -x $(RUN) ] && there=$$($(RUN) -c "$$version") && [ "$$there" != "$$($(PYTHON) -c "$$version")" ]; then \
	    echo "error: $(VENV) is of Python $$there, $(PYTHON) is another: make clean first" >&2; exit 2; fi
endif

clean:
	rm -rf $(VENV) build install log dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	rm -rf flowclas_ros/msg flowclas_ros/srv flowclas_ros/lib flowclas_ros/*.so
	find flowclas_ros training test tools -name __pycache__ -type d -prune -exec rm -rf {} +
