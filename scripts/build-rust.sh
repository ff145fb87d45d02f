#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# build-rust.sh vgpu|userspace: release builds with the builder root's cargo, and the examples in C. What runs in the guest is
# linked statically.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
[ -n "${MIRAGE_INSIDE:-}" ] || exec "$MIRAGE_SRC/scripts/in-root.sh" "$0" "$@"

cd "$MIRAGE_SRC"
case ${1:-} in
vgpu) logged "virtual GPU" "$MIRAGE_STATE/log/vgpu.log" cargo build --locked --release -p mirage-vgpu ;;
userspace)
	export RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static"
	logged "library, command and guest tests" "$MIRAGE_STATE/log/userspace.log" \
		cargo build --locked --release --workspace --exclude mirage-vgpu --target x86_64-unknown-linux-gnu
	for source in examples/*.c; do
		cc -static -O2 -Wall -Wextra -Werror -I uapi -idirafter /usr/include/drm "$source" \
			-o "$CARGO_TARGET_DIR/x86_64-unknown-linux-gnu/release/mirage-example-$(basename "$source" .c)"
	done
	;;
*) die "usage: build-rust.sh vgpu|userspace" ;;
esac
