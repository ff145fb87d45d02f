#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Formatting, lints, documentation, and the rules of this tree that a tool can check. Prints KTAP.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
[ -n "${MIRAGE_INSIDE:-}" ] || exec "$MIRAGE_SRC/scripts/in-root.sh" "$0" "$@"
cd "$MIRAGE_SRC"

log=$MIRAGE_STATE/log/check.log
mkdir -p "$(dirname "$log")"

sources() { # every file but git's and what cargo built here
	find . \( -name .git -o -name target -o -name __pycache__ \) -prune -o -type f -print
}

rust_is_formatted() { cargo fmt --all --check; }
rust_has_no_lints() { cargo clippy --locked --workspace --all-targets -- -D warnings; }
# A workspace of its own, so the others leave it out.
fuzz_targets_are_formatted() { cargo fmt --manifest-path vgpu/fuzz/Cargo.toml --check; }
fuzz_targets_have_no_lints() {
	# Nothing is linked, so libFuzzer itself need not be compiled.
	CUSTOM_LIBFUZZER_PATH=/nowhere/libfuzzer.a cargo clippy --locked --manifest-path vgpu/fuzz/Cargo.toml --target-dir "$MIRAGE_STATE/fuzz-target" -- -D warnings
}
rust_docs_build() { RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps --workspace; }

stock_source() { realpath "$("$MIRAGE_SRC/scripts/prepare-stock.sh")/build/source"; }

driver_is_formatted() {
	find driver -name '*.rs' -exec rustfmt --check --config-path "$(stock_source)/.rustfmt.toml" {} +
}

driver_has_no_lints() {
	local module
	# From scratch: what is not compiled again does not repeat its warnings.
	rm -rf "$MIRAGE_STATE"/module/*-clippy
	module=$(MIRAGE_VARIANT=clippy "$MIRAGE_SRC/scripts/build-driver.sh" stock CLIPPY=1)
	! grep -E '^(warning|error)' "$(dirname "$module")/build.log"
}

# A use of the word in code, not in a comment, a string, or a lint's name.
driver_is_safe_outside_kapi() {
	! find driver -name '*.rs' ! -path 'driver/kapi/*' -exec sed -E 's://.*$::; s:"[^"]*"::g' {} + | grep -nE '\bunsafe\b'
}

licence_of() { # what a file's SPDX line has to say
	case $1 in
	./driver/* | ./Kbuild | ./kernel/sw_sync/*) echo "GPL-2.0" ;;
	./uapi/*) echo "(GPL-2.0 WITH Linux-syscall-note) OR MIT" ;;
	*) echo "MIT OR Apache-2.0" ;;
	esac
}

every_file_names_its_licence() {
	local file bad=0
	while IFS= read -r file; do
		case $file in
		./LICENSES/* | ./Cargo.lock | ./vgpu/fuzz/Cargo.lock | ./vgpu/fuzz/corpus/*) continue ;;
		esac
		head -n 5 "$file" | grep -qF "SPDX-License-Identifier: $(licence_of "$file")" || {
			echo "$file: no line 'SPDX-License-Identifier: $(licence_of "$file")'"
			bad=1
		}
	done < <(sources)
	return "$bad"
}

# The last column of each table row names tests in backquotes: of Rust, of Python, or of igt-gpu-tools.
every_test_that_the_threats_name_exists() {
	local name bad=0
	while IFS= read -r name; do
		case $name in
		igt@*) grep -qE "^$name( |$)" scripts/igt-subtests.txt ;;
		*) grep -rqwE --include='*.rs' --include='*.py' "(fn|def) ${name##*::}" driver vgpu userspace userspace-tests scripts/tests ;;
		esac || {
			echo "docs/threats.md names $name, and there is no such test"
			bad=1
		}
	done < <(grep -E '^\| [A-Z][0-9]+ \|' docs/threats.md | awk -F'|' '{ print $(NF - 1) }' | grep -o '`[^`]*`' | tr -d '`' | sort -u)
	return "$bad"
}

scripts_have_no_lints() {
	find scripts .ci -type f \( -name '*.sh' -o -name guest-init -o -name run \) -exec shellcheck -x -S warning {} +
}

steps="rust_is_formatted rust_has_no_lints fuzz_targets_are_formatted fuzz_targets_have_no_lints rust_docs_build driver_is_formatted driver_has_no_lints driver_is_safe_outside_kapi
	every_file_names_its_licence every_test_that_the_threats_name_exists scripts_have_no_lints"
echo "KTAP version 1"
echo "1..$(wc -w <<<"$steps")"
number=0 failed=0
for step in $steps; do
	number=$((number + 1))
	# In a shell of its own, so that a failure inside ends the step.
	if (set -e; "$step") >"$log" 2>&1; then
		echo "ok $number $step"
	else
		failed=1
		tail -n 60 "$log" | sed 's/^/# /'
		echo "not ok $number $step"
	fi
done
exit "$failed"
