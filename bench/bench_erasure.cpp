// Erasure codes of the state of a group of nodes: encoding and rebuilding of whole shards, stripe
// by stripe, on one thread, beside ISA-L's own encoding of buffers that stay in the L2 cache and a
// copy of memory. Bytes are those of the data: of all shards when encoding, of the lost nodes'
// shards when rebuilding.
#include <benchmark/benchmark.h>
#include <isa-l/erasure_code.h>

#include <cstring>
#include <vector>

#include "checkpoint/erasure_code.h"
#include "checkpoint/stripe_layout.h"

namespace thimble {
namespace {

using Memory = std::vector<std::vector<std::byte>>;

constexpr std::int64_t kShardBytes = std::int64_t{64} << 20;

// The nodes' memory, and spans of one stripe in it.
struct Group {
  explicit Group(CodeShape shape)
      : layout(shape,
               std::vector<std::int64_t>(static_cast<std::size_t>(shape.num_nodes()), kShardBytes)),
        code(shape),
        shards(static_cast<std::size_t>(shape.num_nodes()),
               std::vector<std::byte>(static_cast<std::size_t>(kShardBytes), std::byte{0x5a})),
        parity(shards.size(),
               std::vector<std::byte>(static_cast<std::size_t>(layout.parity_bytes()))) {}

  std::span<std::byte> block(const Stripe& stripe, int index) {
    const StripeMember& member = stripe.members[static_cast<std::size_t>(index)];
    auto& memory =
        (index < layout.shape().data ? shards : parity)[static_cast<std::size_t>(member.node)];
    return std::span(memory).subspan(static_cast<std::size_t>(member.offset),
                                     static_cast<std::size_t>(member.bytes));
  }

  StripeLayout layout;
  ErasureCode code;
  Memory shards, parity;
};

void set_rate(benchmark::State& state, std::int64_t bytes) {
  state.counters["GB/s"] = benchmark::Counter(
      static_cast<double>(bytes) * 1e-9 * static_cast<double>(state.iterations()),
      benchmark::Counter::kIsRate);
}

void encode(benchmark::State& state, CodeShape shape, bool as_they_arrive) {
  Group group(shape);
  for (auto _ : state) {
    for (std::int64_t t = 0; t < group.layout.num_stripes(); ++t) {
      const Stripe stripe = group.layout.stripe(t);
      std::vector<std::span<const std::byte>> data;
      std::vector<std::span<std::byte>> rows;
      for (int i = 0; i < shape.data; ++i) data.push_back(group.block(stripe, i));
      for (int i = 0; i < shape.parity; ++i) rows.push_back(group.block(stripe, shape.data + i));
      if (!as_they_arrive) {
        group.code.encoder().apply(data, rows);
        continue;
      }
      for (int row = 0; row < shape.parity; ++row) {
        const auto into = rows[static_cast<std::size_t>(row)];
        std::memset(into.data(), 0, into.size());
        for (int i = 0; i < shape.data; ++i) {
          group.code.encoder().add(i, data[static_cast<std::size_t>(i)], row, into);
        }
      }
    }
  }
  set_rate(state, kShardBytes * shape.num_nodes());
}

// The first `num_lost` nodes are lost; their shards and parity are rebuilt in place.
void rebuild(benchmark::State& state, CodeShape shape, int num_lost) {
  Group group(shape);
  for (auto _ : state) {
    for (std::int64_t t = 0; t < group.layout.num_stripes(); ++t) {
      const Stripe stripe = group.layout.stripe(t);
      std::vector<int> lost;
      for (int node = 0; node < num_lost; ++node) lost.push_back(stripe.block_of(node));
      const auto plan = group.code.rebuild(lost);
      std::vector<std::span<const std::byte>> sources;
      std::vector<std::span<std::byte>> rows;
      for (const int i : plan.sources) sources.push_back(group.block(stripe, i));
      for (const int i : plan.lost) rows.push_back(group.block(stripe, i));
      plan.transform.apply(sources, rows);
    }
  }
  set_rate(state, kShardBytes * num_lost);
}

// ec_encode_data on k + m buffers of 32 KiB, again and again.
void isal(benchmark::State& state, CodeShape shape, int rows) {
  const auto k = static_cast<std::size_t>(shape.data),
             n = static_cast<std::size_t>(shape.num_nodes());
  constexpr int kBytes = 32 << 10;
  std::vector<unsigned char> matrix(n * k), tables(32 * k * static_cast<std::size_t>(rows));
  gf_gen_cauchy1_matrix(matrix.data(), shape.num_nodes(), shape.data);
  ec_init_tables(shape.data, rows, &matrix[k * k], tables.data());
  std::vector<std::vector<unsigned char>> buffers(n, std::vector<unsigned char>(kBytes, 3));
  std::vector<unsigned char*> pointers;
  for (auto& buffer : buffers) pointers.push_back(buffer.data());
  for (auto _ : state) {
    ec_encode_data(kBytes, shape.data, rows, tables.data(), pointers.data(), &pointers[k]);
    benchmark::ClobberMemory();
  }
  set_rate(state, std::int64_t{kBytes} * shape.data);
}

void copy(benchmark::State& state) {
  std::vector<std::byte> from(static_cast<std::size_t>(kShardBytes), std::byte{1}), to(from.size());
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), from.size());
    benchmark::ClobberMemory();
  }
  set_rate(state, kShardBytes);
}

void register_all() {
  const auto add = [](const std::string& name, auto run) {
    benchmark::RegisterBenchmark(name.c_str(), run)->Unit(benchmark::kMillisecond);
  };
  for (const CodeShape shape : {CodeShape{1, 1}, {2, 1}, {3, 1}, {2, 2}, {4, 2}, {6, 2}}) {
    const std::string name = to_string(shape);
    add("encode/" + name, [=](benchmark::State& s) { encode(s, shape, false); });
    add("encode_arriving/" + name, [=](benchmark::State& s) { encode(s, shape, true); });
    for (int lost = 1; lost <= shape.parity; ++lost) {
      add("rebuild/" + name + "/" + std::to_string(lost),
          [=](benchmark::State& s) { rebuild(s, shape, lost); });
      add("isal/" + name + "/" + std::to_string(lost),
          [=](benchmark::State& s) { isal(s, shape, lost); });
    }
  }
  add("memcpy", copy);
}

const bool kRegistered = (register_all(), true);

}  // namespace
}  // namespace thimble
