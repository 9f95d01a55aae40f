// Every communicator passes this body: what arrives is what was sent, sums are in rank order,
// errors name the culprit.
#include <numeric>

#include "core/base/random.h"
#include "core/ops/ops.h"
#include "parallel/collectives.h"
#include "tests/parallel/rank_team.h"

namespace thimble {
namespace {

class CommunicatorTest : public testing::TestWithParam<int> {
 protected:
  void run(const RankBody& body) { run_ranks(GetParam(), body); }
};

std::byte pattern(int from, int to, std::size_t i) {
  return static_cast<std::byte>(mix64(static_cast<std::uint64_t>(from * 64 + to), i) & 0xff);
}

// A transport that sums by itself: from the last rank to the first, rounded each time.
class SummingCommunicator final : public Communicator {
 public:
  explicit SummingCommunicator(Communicator& comm) : comm_(comm) {}
  int rank() const override { return comm_.rank(); }
  int size() const override { return comm_.size(); }
  Completion start(const OpLabel& label, Purpose purpose, Exchange exchange) override {
    return comm_.start(label, purpose, std::move(exchange));
  }
  Completion start_sum(const OpLabel& label, std::vector<RowSum> sums) override {
    for (const RowSum& sum : sums) {
      const auto width = static_cast<std::size_t>(dtype_size(sum.dtype));
      const auto part = [&](int r) {
        const auto begin = static_cast<std::size_t>(sum.begin[static_cast<std::size_t>(r)]);
        const auto end = static_cast<std::size_t>(sum.begin[static_cast<std::size_t>(r) + 1]);
        return sum.all.subspan(begin * width, (end - begin) * width);
      };
      EXPECT_EQ(sum.mine.size(), part(rank()).size());
      std::vector<std::vector<std::byte>> got(static_cast<std::size_t>(size()));
      Exchange exchange(size());
      for (int r = 0; r < size(); ++r) {
        auto& here = got[static_cast<std::size_t>(r)];
        here.assign(part(rank()).begin(), part(rank()).end());
        if (r == rank()) continue;
        exchange.send[static_cast<std::size_t>(r)] = {part(r)};
        exchange.receive[static_cast<std::size_t>(r)] = {here};
      }
      comm_.start(label, Purpose::kTensor, std::move(exchange)).wait();
      const std::size_t n = sum.mine.size() / width;
      for (std::size_t i = 0; i < n; ++i) {
        float total = 0;
        for (auto r = got.rbegin(); r != got.rend(); ++r) {
          if (sum.dtype == DType::kF32) {
            float x = 0;
            std::memcpy(&x, r->data() + 4 * i, 4);
            total += x;
          } else {
            BF16 x{};
            std::memcpy(&x, r->data() + 2 * i, 2);
            total = to_float(to_bf16(total + to_float(x)));
          }
        }
        const BF16 rounded = to_bf16(total);
        std::memcpy(sum.mine.data() + i * width,
                    sum.dtype == DType::kF32 ? static_cast<const void*>(&total) : &rounded, width);
      }
    }
    return {};
  }
  void set_time_limit(std::chrono::milliseconds) override {}
  void abort(const std::string&) noexcept override {}
  Traffic traffic() const override { return comm_.traffic(); }

 private:
  Communicator& comm_;
};

TEST_P(CommunicatorTest, EveryByteArrivesWhereItBelongs) {
  run([](Communicator& comm) {
    const int n = comm.size(), me = comm.rank();
    for (const std::size_t unit : {0u, 1u, 1000u, 300001u}) {
      Exchange exchange(n);
      std::vector<std::vector<std::byte>> out(static_cast<std::size_t>(n)),
          in(static_cast<std::size_t>(n));
      for (int r = 0; r < n; ++r) {
        if (r == me) continue;
        const auto at = static_cast<std::size_t>(r);
        out[at].resize(unit * static_cast<std::size_t>(me + 1));
        in[at].resize(unit * static_cast<std::size_t>(r + 1));
        for (std::size_t i = 0; i < out[at].size(); ++i) out[at][i] = pattern(me, r, i);
        exchange.send[at] = {Bytes(out[at]).first(out[at].size() / 3),
                             Bytes(out[at]).subspan(out[at].size() / 3)};
        exchange.receive[at] = {MutableBytes(in[at]).first(in[at].size() / 3),
                                MutableBytes(in[at]).subspan(in[at].size() / 3)};
      }
      comm.start({"exchange", "bytes"}, Purpose::kTensor, std::move(exchange)).wait();
      for (int r = 0; r < n; ++r) {
        if (r == me) continue;
        const auto& got = in[static_cast<std::size_t>(r)];
        for (std::size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], pattern(r, me, i));
      }
    }
  });
}

// Ranks that only ask serve each other too.
TEST_P(CommunicatorTest, DoneBecomesTrueWithoutWaiting) {
  run([](Communicator& comm) {
    const int n = comm.size();
    std::vector<int> mine(1001, comm.rank()), all(1001 * static_cast<std::size_t>(n), -1);
    Exchange exchange(n);
    for (int r = 0; r < n; ++r) {
      if (r == comm.rank()) continue;
      const auto at = static_cast<std::size_t>(r);
      exchange.send[at] = {std::as_bytes(std::span(mine))};
      exchange.receive[at] = {std::as_writable_bytes(std::span(all).subspan(1001 * at, 1001))};
    }
    Completion operation = comm.start({"exchange", "asked"}, Purpose::kTensor, std::move(exchange));
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!operation.done() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
    ASSERT_TRUE(operation.done());
    for (std::size_t i = 0; i < all.size(); ++i) {
      const int from = static_cast<int>(i / 1001);
      ASSERT_EQ(all[i], from == comm.rank() ? -1 : from);
    }
    operation.wait();
  });
}

TEST_P(CommunicatorTest, OperationsUnderWayTogetherDoNotMix) {
  run([](Communicator& comm) {
    constexpr int kOps = 20;
    std::vector<std::vector<float>> values(kOps);
    std::vector<Completion> operations;
    std::vector<Exchange> kept;
    std::vector<std::vector<float>> in(static_cast<std::size_t>(kOps * comm.size()));
    for (int op = 0; op < kOps; ++op) {
      auto& mine = values[static_cast<std::size_t>(op)];
      mine.assign(static_cast<std::size_t>(100 * op + 1),
                  static_cast<float>(1000 * op + comm.rank()));
      Exchange exchange(comm.size());
      for (int r = 0; r < comm.size(); ++r) {
        if (r == comm.rank()) continue;
        auto& place = in[static_cast<std::size_t>(op * comm.size() + r)];
        place.resize(mine.size());
        exchange.send[static_cast<std::size_t>(r)] = {std::as_bytes(std::span(mine))};
        exchange.receive[static_cast<std::size_t>(r)] = {std::as_writable_bytes(std::span(place))};
      }
      operations.push_back(comm.start({"exchange", fmt::format("op {}", op)}, Purpose::kTensor,
                                      std::move(exchange)));
    }
    // Every rank waits in an order of its own.
    for (int i = 0; i < kOps; ++i)
      operations[static_cast<std::size_t>((i * 7 + comm.rank() * 3) % kOps)].wait();
    for (int op = 0; op < kOps; ++op) {
      for (int r = 0; r < comm.size(); ++r) {
        if (r == comm.rank()) continue;
        for (const float x : in[static_cast<std::size_t>(op * comm.size() + r)]) {
          ASSERT_EQ(x, static_cast<float>(1000 * op + r));
        }
      }
    }
  });
}

TEST_P(CommunicatorTest, ReductionsSumInRankOrder) {
  run([](Communicator& comm) {
    const auto arena = Arena::make_cpu(1 << 26);
    const int n = comm.size();
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const DType comm_dtype : {DType::kF32, DType::kBF16}) {
        const Shape shape{7, 5};
        std::vector<Tensor> all;  // what every rank contributes
        for (int r = 0; r < n; ++r) {
          all.push_back(Tensor::empty(*arena, MemoryTag::kGradients, dtype, shape));
          const CounterRandom random(static_cast<std::uint64_t>(r), RandomPurpose::kSampling);
          Tensor f = Tensor::empty(*arena, MemoryTag::kGradients, DType::kF32, shape);
          for (std::int64_t i = 0; i < 35; ++i)
            f.data<float>()[i] = random.normal(static_cast<std::uint64_t>(i));
          ops::cast(all.back(), f);
        }
        RowParts part{all[static_cast<std::size_t>(comm.rank())], {}};
        for (int r = 0; r <= n; ++r) part.begin.push_back(7 * r / n);
        const std::int64_t begin = part.begin[static_cast<std::size_t>(comm.rank())];
        const std::int64_t rows = part.begin[static_cast<std::size_t>(comm.rank()) + 1] - begin;
        const Tensor got =
            Tensor::empty(*arena, MemoryTag::kGradients, DType::kF32, Shape{rows, 5});
        for (const bool accumulate : {false, true}) {
          RowReduction reduction(comm, *arena, {"reduce_scatter", "test"}, std::span(&part, 1),
                                 {.comm_dtype = comm_dtype});
          const GradTarget target{got, accumulate};
          reduction.finish(std::span(&target, 1));
        }
        SummingCommunicator sums(comm);
        const Tensor own = Tensor::empty(*arena, MemoryTag::kGradients, DType::kF32, got.shape());
        for (const bool accumulate : {false, true}) {
          RowReduction reduction(sums, *arena, {"reduce_scatter", "test"}, std::span(&part, 1),
                                 {.comm_dtype = comm_dtype, .by_transport = true});
          const GradTarget target{own, accumulate};
          reduction.finish(std::span(&target, 1));
        }
        const double error = comm_dtype == DType::kBF16 ? 0.1 : 1e-5;
        for (std::int64_t i = 0; i < rows * 5; ++i)
          ASSERT_NEAR(own.data<float>()[i], got.data<float>()[i], error);
        for (std::int64_t i = 0; i < rows * 5; ++i) {
          float sum = 0;
          for (int r = 0; r < n; ++r) {
            const Tensor& t = all[static_cast<std::size_t>(r)];
            const std::int64_t at = begin * 5 + i;
            float x = dtype == DType::kF32 ? t.data<float>()[at] : to_float(t.data<BF16>()[at]);
            if (comm_dtype == DType::kBF16 && n > 1) x = to_float(to_bf16(x));
            sum = r == 0 ? x : sum + x;
          }
          ASSERT_EQ(got.data<float>()[i], sum + sum);
        }
      }
    }
  });
}

TEST_P(CommunicatorTest, SmallCollectives) {
  run([](Communicator& comm) {
    barrier(comm, "start");
    const auto arena = Arena::make_cpu(1 << 20);
    // Fewer than ranks, and more.
    for (const std::size_t n : {std::size_t{1}, std::size_t{1001}}) {
      const auto value = [](int rank, std::size_t i) {
        return 1e-3f * static_cast<float>(i) + 1e4f * static_cast<float>(rank);
      };
      std::vector<float> values(n);
      for (std::size_t i = 0; i < n; ++i) values[i] = value(comm.rank(), i);
      all_reduce(comm, *arena, "values", values);
      for (std::size_t i = 0; i < n; ++i) {
        float sum = value(0, i);
        for (int r = 1; r < comm.size(); ++r) sum += value(r, i);
        ASSERT_EQ(values[i], sum);
      }
    }
    std::vector<ExactSum> sums(2);
    sums[0].add(comm.rank() == 0 ? 1e300 : 1.0);
    sums[1].add(comm.rank() == comm.size() - 1 ? std::numeric_limits<double>::quiet_NaN() : 1.0);
    all_reduce(comm, "sums", sums);
    EXPECT_EQ(sums[0].value(), 1e300);
    EXPECT_TRUE(std::isnan(sums[1].value()));
    std::vector<int> word{comm.rank() == comm.size() - 1 ? 42 : 0};
    broadcast(comm, "word", comm.size() - 1, std::as_writable_bytes(std::span(word)));
    EXPECT_EQ(word[0], 42);
  });
}

TEST_P(CommunicatorTest, TrafficIsWhatWasSent) {
  run([](Communicator& comm) {
    const Traffic before = comm.traffic();
    std::vector<std::byte> mine(100);
    static_cast<void>(all_gather_control(comm, "bytes", mine));
    EXPECT_EQ(comm.traffic().control_bytes - before.control_bytes, 100 * (comm.size() - 1));
    EXPECT_EQ(comm.traffic().tensor_bytes, before.tensor_bytes);
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, CommunicatorTest, testing::Values(1, 2, 3, 4));

}  // namespace
}  // namespace thimble
