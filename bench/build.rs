//! Compiles the benchmark's BPF programs to `$OUT_DIR/gre-bench-programs.bpf.o`, which the crate embeds.

fn main() -> anyhow::Result<()> {
    Ok(gre_build::embed(&gre_build::BENCH)?)
}
