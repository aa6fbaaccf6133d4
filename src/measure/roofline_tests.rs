use super::*;
use crate::study::{CardDescription, PassKind, ReadCeiling};

/// 10 GB/s from memory, 100 GB/s from a cache of 1 MB, 200 GFLOP/s, 800 GOP/s.
fn ceilings() -> Ceilings {
    let cache = ReadCeiling {
        memory: MemoryLevel::Cache(2),
        capacity_bytes: Some(1_000_000),
        buffer_bytes: 500_000,
        bytes_per_second: 100e9,
    };
    let main = ReadCeiling {
        memory: MemoryLevel::Main,
        capacity_bytes: None,
        buffer_bytes: 64_000_000,
        bytes_per_second: 10e9,
    };
    Ceilings {
        reads: vec![cache, main],
        float_flops: 200e9,
        int8_ops: Some(800e9),
        hand_over_secs: 1e-6,
        threads: 2,
        instructions: "test".to_owned(),
        tensor_flops: None,
        tensor_int8_ops: None,
        card: None,
    }
}

fn operation(operation: Operation, nanos: u64, flops: u64, streamed: u64, activations: u64) -> OperationProfile {
    OperationProfile {
        block: Some(0),
        operation,
        nanos,
        span_nanos: [0, nanos],
        flops,
        streamed_bytes: streamed,
        activation_bytes: activations,
        arithmetic: Arithmetic::Float,
        product: None,
    }
}

fn pass(operations: Vec<OperationProfile>) -> PassProfile {
    let nanos = operations.iter().map(|operation| operation.nanos).sum();
    PassProfile {
        kind: PassKind::Decode { context: 8 },
        repetitions: 4,
        profiled_nanos: nanos,
        plain_nanos: nanos,
        card_nanos: None,
        overhead: None,
        operations,
    }
}

fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-9 * expected.abs(), "{found} for {expected}");
}

#[test]
fn each_operation_is_under_the_right_ceiling() {
    // 20 MB from memory at 10 GB/s are 2 ms; 40 MFLOP at 200 GFLOP/s are 0.2 ms.
    let memory = operation(Operation::Down, 4_000_000, 40_000_000, 20_000_000, 1000);
    // 4 GFLOP at 200 GFLOP/s are 20 ms; 10 MB of states are 1 ms.
    let compute = operation(Operation::Query, 25_000_000, 4_000_000_000, 0, 10_000_000);
    // 500 kB of states fit the cache: 5 µs at 100 GB/s.
    let cache = operation(Operation::Activation, 10_000, 1000, 0, 500_000);
    // 10 kB are 0.1 µs, of 5, which are less than ten hand-overs.
    let overhead = operation(Operation::Rope, 5_000, 1000, 0, 10_000);
    let pass = pass(vec![compute, memory, cache, overhead]);
    let found = efforts(&pass, &ceilings());
    let bounds: Vec<Bound> = found.iter().map(Effort::bound).collect();
    assert_eq!(bounds, [Bound::Compute, Bound::Memory, Bound::Cache, Bound::Overhead]);
    near(found[0].ceiling_share().unwrap(), 0.8);
    near(found[0].flops_per_second().unwrap(), 160e9);
    // 1000 bytes of states come from the cache beside the 20 MB.
    near(found[1].ceiling_share().unwrap(), (2e-3 + 1e-8) / 4e-3);
    near(found[1].bytes_per_second().unwrap(), 20_001_000.0 / 4e-3);
    near(found[1].intensity().unwrap(), 40e6 / 20_001_000.0);
    near(found[2].ceiling_share().unwrap(), 0.5);
    near(found[3].ceiling_share().unwrap(), 0.02);
    let long = operation(Operation::Rope, 50_000, 1000, 0, 10_000);
    assert_eq!(total(&self::pass(vec![long]), &ceilings()).bound(), Bound::Cache, "long, and slow for its bytes");
}

#[test]
fn weights_of_a_pass_that_fits_a_cache_come_from_it() {
    let small = pass(vec![operation(Operation::Gate, 1000, 0, 90_000, 0)]);
    let effort = total(&small, &ceilings());
    assert_eq!(effort.bound(), Bound::Cache);
    near(effort.ideal_secs, 0.9e-6);
    // The same operation in a pass that streams more than the cache holds.
    let large =
        pass(vec![operation(Operation::Gate, 10_000, 0, 90_000, 0), operation(Operation::Head, 1, 0, 910_001, 0)]);
    let effort = efforts(&large, &ceilings())[0];
    assert_eq!(effort.bound(), Bound::Memory);
    near(effort.ideal_secs, 9e-6);
}

#[test]
fn integers_have_a_roof_of_their_own() {
    let mut product = operation(Operation::Up, 10_000, 4_000_000, 0, 0);
    product.arithmetic = Arithmetic::Int8;
    let mut ceilings = ceilings();
    near(total(&pass(vec![product.clone()]), &ceilings).ideal_secs, 5e-6);
    ceilings.int8_ops = None;
    near(total(&pass(vec![product]), &ceilings).ideal_secs, 20e-6);
    assert_eq!(roofs(&ceilings).len(), 3);
    near(roofs(&ceilings)[1].at(4.0), 40e9);
    near(roofs(&ceilings)[2].at(4.0), 200e9);
}

#[test]
fn sums_are_whole_and_the_bottleneck_is_where_the_time_is() {
    let pass = pass(vec![
        operation(Operation::Query, 3_000_000, 0, 20_000_000, 0),
        operation(Operation::Gate, 5_000_000, 0, 40_000_000, 0),
        operation(Operation::Rope, 2_000_000, 0, 0, 1000),
    ]);
    let ceilings = ceilings();
    let all = total(&pass, &ceilings);
    near(all.secs, 10e-3);
    let of_groups: f64 = by_group(&pass, &ceilings).iter().map(|(_, effort)| effort.secs).sum();
    let of_operations: f64 = by_operation(&pass, &ceilings).iter().map(|(_, effort)| effort.secs).sum();
    let of_blocks: f64 = by_block(&pass, &ceilings).iter().map(|(_, effort)| effort.secs).sum();
    near(of_groups, all.secs);
    near(of_operations, all.secs);
    near(of_blocks, all.secs);
    let found = bottleneck(&pass, &ceilings).unwrap();
    assert_eq!(found.bound, Bound::Memory);
    near(found.time_share, 0.8);
    near(found.reached.unwrap(), 60e6 / 8e-3);
    near(found.ceiling.unwrap(), 10e9);
}

#[test]
fn what_cannot_be_told_is_absent() {
    let mut nothing = ceilings();
    nothing.reads.clear();
    let idle = pass(vec![operation(Operation::Rope, 0, 0, 0, 0)]);
    let effort = total(&idle, &nothing);
    assert_eq!((effort.intensity(), effort.flops_per_second(), effort.ceiling_share()), (None, None, None));
    assert_eq!(bottleneck(&idle, &nothing), None);
    assert_eq!(bottleneck(&pass(Vec::new()), &ceilings()), None);
    let unread = total(&pass(vec![operation(Operation::Rope, 10, 0, 5, 5)]), &nothing);
    assert_eq!((unread.ideal_secs, unread.bound()), (0.0, Bound::Overhead), "no memory was measured");
}

#[test]
fn no_operation_is_above_the_ceiling_of_its_arithmetic() {
    let mut quick = operation(Operation::Gate, 1_000, 500_000, 5, 5);
    let mut of = ceilings();
    of.take_in(&[pass(vec![operation(Operation::Rope, 0, 9, 0, 0), quick.clone()])]);
    near(of.float_flops, 500e9);
    assert_eq!(of.int8_ops, Some(800e9), "integers are another arithmetic");
    quick.arithmetic = Arithmetic::Int8;
    of.int8_ops = None;
    quick.flops = 600_000;
    of.take_in(&[pass(vec![quick])]);
    near(of.flops_of(Arithmetic::Int8), 600e9);
    let slow = operation(Operation::Gate, 1_000, 10, 5, 5);
    of.take_in(&[pass(vec![slow])]);
    near(of.float_flops, 600e9);
}

#[test]
fn on_a_card_short_operations_wait_for_launches_and_a_card_without_work_for_the_host() {
    let mut ceilings = ceilings();
    // 1 kB in 3 µs is far from every ceiling, and less than ten launches take.
    let mut pass = pass(vec![operation(Operation::Query, 3_000, 1_000, 1_000, 0)]);
    let bound = |pass: &PassProfile, ceilings: &Ceilings| bottleneck(pass, ceilings).unwrap().bound;
    assert_eq!(bound(&pass, &ceilings), Bound::Overhead);
    let name = "a card".to_owned();
    ceilings.card = Some(CardDescription { name, multiprocessors: 132, recorded_launch_secs: 5e-7 });
    assert_eq!(bound(&pass, &ceilings), Bound::Launches);
    assert_eq!(host_share(&pass), None, "not known");
    pass.card_nanos = Some(2_400);
    near(host_share(&pass).unwrap(), 0.2);
    assert_eq!(bound(&pass, &ceilings), Bound::Launches);
    pass.card_nanos = Some(600);
    let found = bottleneck(&pass, &ceilings).unwrap();
    assert_eq!((found.bound, found.reached, found.ceiling), (Bound::Host, None, None));
    near(found.time_share, 0.8);
    pass.card_nanos = Some(3_001);
    near(host_share(&pass).unwrap() + 1.0, 1.0);
}
