#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# All set-up, then the demo in a guest. The last line says how it went.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

fail() {
	say "demo: FAIL ($*)"
	exit 1
}

scripts=$MIRAGE_SRC/scripts
"$scripts/builder-root.sh" >/dev/null || fail "no builder root"
"$scripts/prepare-stock.sh" >/dev/null || fail "no kernel"
"$scripts/build-driver.sh" stock >/dev/null || fail "the driver does not build"
"$scripts/build-rust.sh" vgpu || fail "the virtual GPU does not build"
"$scripts/build-rust.sh" userspace || fail "the demo does not build"
start=$SECONDS status=0
say "== guest: boot and demo"
# The guest's own PASS is not the last word: the shutdown and the kernel's console count too.
"$scripts/qemu-boot.sh" "$@" -- mirage demo | sed -u '/^demo: PASS$/d' || status=${PIPESTATUS[0]}
say "== guest: $((SECONDS - start)) s"
[ "$status" = 0 ] || fail "status $status, see above"
echo "demo: PASS"
