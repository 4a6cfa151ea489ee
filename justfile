# The single entry to the project's chores; `just` lists them.
default:
    @just --list

# Run the example mesh.
demo *ARGS:
    cargo run --release -- demo {{ARGS}}

# Everything CI runs; `just test --sidecar envoy` runs traffic and mesh with a stock Envoy as every sidecar.
test *ARGS:
    scripts/test {{ARGS}}

# While writing.
check:
    cargo check --workspace --all-targets

fmt:
    cargo fmt --all

lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# Licences, sources, bans (cargo install cargo-deny).
deny:
    cargo deny check licenses bans sources

# Race the peers in one run and print the ratios.
bench *ARGS:
    scripts/bench {{ARGS}}

# The one image as an OCI layout, without Docker.
image *ARGS:
    scripts/image {{ARGS}}
