//! Compiles the benchmark's BPF programs to `$OUT_DIR/gre-bench-programs.bpf.o` and `$OUT_DIR/gre-bench-lookup.bpf.o`,
//! which the crate embeds.

fn main() -> anyhow::Result<()> {
    gre_build::embed(&gre_build::BENCH)?;
    Ok(gre_build::embed(&gre_build::LOOK_UP)?)
}
