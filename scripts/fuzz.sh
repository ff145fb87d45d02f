#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# fuzz.sh [TARGET [SECONDS]]: feeds the virtual GPU what a hostile guest could, for a minute unless told otherwise, or each target in
# turn. New inputs go to the cache, findings beside them; vgpu/fuzz/corpus/TARGET is read. docs/testing.md says more.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
[ -n "${MIRAGE_INSIDE:-}" ] || exec "$MIRAGE_SRC/scripts/in-root.sh" "$0" "$@"

# The last one that the builder root's rustc can build.
version=0.12.0
tool=$MIRAGE_CACHE/cargo-fuzz-$version
targets=(registers page_tables push_buffers fault_buffers)
[ $# -eq 0 ] || targets=("$1")
seconds=${2:-60}

install_tool() {
	[ -x "$tool/bin/cargo-fuzz" ] || logged cargo-fuzz "$MIRAGE_STATE/log/cargo-fuzz.log" \
		cargo install cargo-fuzz --version "$version" --locked --root "$tool" --target-dir "$MIRAGE_STATE/fuzz-tool"
}
with_lock cargo-fuzz install_tool

cd "$MIRAGE_SRC/vgpu"
for target in "${targets[@]}"; do
	[ -d "fuzz/corpus/$target" ] || die "no target '$target': it is one of registers, page_tables, push_buffers, fault_buffers"
	found=$MIRAGE_STATE/fuzz/$target
	mkdir -p "$found/corpus"
	say "== fuzz: $target for $seconds s; inputs and findings in $found"
	# Coverage instrumentation is unstable in rustc. Debian's has no AddressSanitizer.
	RUSTC_BOOTSTRAP=1 PATH=$tool/bin:$PATH cargo fuzz run --sanitizer none --target-dir "$MIRAGE_STATE/fuzz-target" \
		"$target" "$found/corpus" "fuzz/corpus/$target" -- \
		-max_total_time="$seconds" -timeout=30 -max_len=2048 -print_final_stats=1 -artifact_prefix="$found/"
done
