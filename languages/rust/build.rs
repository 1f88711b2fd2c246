use prost::Message;

// `buf build --path proto/runlog -o contract.binpb` has compiled the contract, so that
// no protoc is needed here.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=contract.binpb");
    let contract = prost_types::FileDescriptorSet::decode(&*std::fs::read("contract.binpb")?)?;
    tonic_prost_build::configure()
        .build_server(false)
        .compile_fds(contract)?;
    Ok(())
}
