# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Mirage: `make help`. The work is done by scripts/; kbuild reads Kbuild, not this file.

MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:
.PHONY: help demo test shell driver vgpu userspace install check clean distclean

S := scripts

help:
	@echo 'make demo        all set-up, then the demo on a Debian kernel in a guest with a virtual GPU'
	@echo 'make test        every test suite, on the Debian kernel and on the debug kernel (builds it)'
	@echo 'make shell       an interactive guest with the module loaded'
	@echo 'make driver      mirage.ko for the Debian kernel of demo and tests; KDIR=... for any prepared tree, 7.2 or 7.3'
	@echo 'make vgpu        the virtual GPU'
	@echo 'make userspace   client library, mirage command and guest tests'
	@echo 'make install     mirage.ko for the running kernel of this (Debian) machine, into /lib/modules'
	@echo 'make check       formatting, lints, docs, no unsafe outside driver/kapi, licence lines'
	@echo 'make clean       removes what was built from this checkout'
	@echo 'make distclean   removes the whole cache: kernels, builder root, packages'
	@echo
	@echo 'KERNEL=7.2.12+deb13-amd64 selects a Debian kernel; MIRAGE_CACHE=DIR says where to cache (~/.cache/mirage).'
	@echo 'Into the guest: scripts/qemu-boot.sh --help'

demo:
	@$S/demo.sh

test:
	@$S/in-root.sh $S/test.py $(SUITES)

shell: driver vgpu userspace
	@$S/qemu-boot.sh

driver:
	@$S/build-driver.sh $(if $(KDIR),"$(KDIR)",stock)

vgpu:
	@$S/build-rust.sh vgpu

userspace:
	@$S/build-rust.sh userspace

install:
	@$S/install.sh

check:
	@$S/check.sh

clean:
	@$S/clean.sh

distclean:
	@$S/clean.sh --all
