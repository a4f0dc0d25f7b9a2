//! Compiles the XDP program and puts the object where the crate embeds it from: `$OUT_DIR/gregw.bpf.o`.

fn main() -> anyhow::Result<()> {
    Ok(gre_build::embed(&gre_build::GATEWAY)?)
}
