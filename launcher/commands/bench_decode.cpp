#include "launcher/commands/bench_decode.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/base/random.h"
#include "core/ops/op_observer.h"
#include "launcher/commands/kv_arguments.h"
#include "models/weight_sources.h"
#include "train/weight_loading.h"

namespace thimble {
namespace {

using Json = nlohmann::ordered_json;

struct DecodeArguments {
  std::string size = "130m", dtype = "bf16";
  std::vector<std::int64_t> contexts{2048, 8192, 32768};
  std::int64_t steps = 15;
  bool json = false, attention_only = false;
  std::shared_ptr<KvArguments> kv = std::make_shared<KvArguments>();
};

double median_seconds(std::int64_t steps, const std::function<void()>& body) {
  std::vector<double> seconds;
  for (std::int64_t i = 0; i < steps + 2; ++i) {  // the first two warm up
    const std::int64_t start = steady_now_ns();
    body();
    seconds.push_back(static_cast<double>(steady_now_ns() - start) * 1e-9);
  }
  seconds.erase(seconds.begin(), seconds.begin() + 2);
  std::nth_element(seconds.begin(), seconds.begin() + seconds.size() / 2, seconds.end());
  return seconds[seconds.size() / 2];
}

// What the machine reads at best, by the same threads.
double read_bytes_per_second() {
  constexpr std::int64_t kBytes = 256 * kMiB;
  const std::unique_ptr<Arena> arena = Arena::make_cpu(2 * kBytes);
  const Tensor a =
      Tensor::empty(*arena, MemoryTag::kWorkspace, DType::kF32, Shape{kBytes / 4096, 1024});
  ops::zero(a);
  return static_cast<double>(kBytes) /
         median_seconds(5, [&] { static_cast<void>(ops::sum_squares(*arena, a)); });
}

Tensor random_rows(Arena& arena, DType dtype, std::int64_t rows, std::int64_t width,
                   std::uint64_t seed) {
  const Tensor t = Tensor::empty(arena, MemoryTag::kActivations, dtype, Shape{rows, width});
  const CounterRandom random(seed, RandomPurpose::kSampling);
  std::vector<float> values(static_cast<std::size_t>(std::min<std::int64_t>(t.numel(), 65536)));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = 2 * random.uniform(i) - 1;
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    const float x = values[static_cast<std::size_t>(i) % values.size()];
    if (dtype == DType::kBF16) {
      t.data<BF16>()[i] = to_bf16(x);
    } else {
      t.data<float>()[i] = x;
    }
  }
  return t;
}

// One kind of cache that is measured.
struct CacheKind {
  std::string name;
  KvArguments arguments;
};

class DecodeBench {
 public:
  DecodeBench(const DecodeArguments& a, const ModelConfig& config)
      : a_(a),
        config_(config),
        dtype_(a.dtype == "bf16" ? DType::kBF16 : DType::kF32),
        model_(config),
        arena_(Arena::make_cpu(std::int64_t{1} << 40)),
        bandwidth_(read_bytes_per_second()) {
    if (a.attention_only) return;
    store_ = std::make_unique<ResidentParamStore>(*arena_, model_.params(), dtype_, true);
    InitSource source(1, 0.02, model_.config().unit_norms);
    load_weights(*arena_, model_, *store_, source);
  }

  void measure(std::int64_t context, const CacheKind& kind, double& dense_seconds) {
    const std::int64_t capacity = context + 2 * (a_.steps + 2) + 1;
    const KvCaches caches(kind.arguments, config_, dtype_);
    const std::unique_ptr<KvCache> cache = caches.make(*arena_, capacity);
    fill(*cache, context);
    const double attention = attention_seconds(*cache);
    if (dense_seconds == 0) dense_seconds = attention;
    double token = 0;
    if (store_ != nullptr) {
      const Tensor table = caches.make_table(*arena_, capacity);
      Decoder decoder(*arena_, model_, *store_, dtype_,
                      DecodingCache{.kv = *cache, .rope_table = table});
      const std::vector<std::int32_t> one{5};
      token = median_seconds(a_.steps, [&] { static_cast<void>(decoder.feed(one)); });
    }
    const auto* compressed = dynamic_cast<const CompressedKvCache*>(cache.get());
    const std::int64_t bytes = compressed != nullptr ? compressed->used_bytes() : cache->bytes();
    report(context, kind.name, bytes, {attention, token, dense_seconds});
  }

 private:
  struct Seconds {
    double attention, token, dense;
  };

  void fill(KvCache& cache, std::int64_t context) const {
    if (auto* compressed = dynamic_cast<CompressedKvCache*>(&cache)) {
      compressed->fill_random(context, 7);
      return;
    }
    auto& dense = dynamic_cast<DenseKvCache&>(cache);
    dense.advance(context);
    for (int l = 0; l < config_.num_layers; ++l) {
      for (const Tensor& rows : {dense.keys(l), dense.values(l)}) {
        const Tensor some =
            random_rows(*arena_, dtype_, std::min<std::int64_t>(512, context), rows.dim(1), 7);
        for (std::int64_t r = 0; r < context; r += some.dim(0)) {
          const std::int64_t n = std::min(some.dim(0), context - r);
          ops::copy(rows.rows(r, r + n), some.rows(0, n));
        }
      }
    }
  }

  double attention_seconds(KvCache& cache) const {
    const std::int64_t d = config_.head_dim;
    KvQueries in;
    in.q = in.raw_q = random_rows(*arena_, dtype_, 1, config_.num_heads * d, 1);
    in.k = in.raw_k = random_rows(*arena_, dtype_, 1, config_.num_kv_heads * d, 2);
    in.v = random_rows(*arena_, dtype_, 1, config_.num_kv_heads * d, 3);
    in.positions = Tensor::empty(*arena_, MemoryTag::kActivations, DType::kI32, Shape{1});
    in.segment_start = Tensor::empty(*arena_, MemoryTag::kActivations, DType::kI32, Shape{1});
    ops::zero(in.segment_start);
    in.rope_table = make_rope_table_of(cache.capacity());
    in.shape = {.heads = config_.num_heads,
                .kv_heads = config_.num_kv_heads,
                .head_dim = d,
                .scale = 1 / std::sqrt(static_cast<float>(d))};
    return median_seconds(a_.steps, [&] {
      in.positions.data<std::int32_t>()[0] = narrow<std::int32_t>(cache.length());
      for (in.layer = 0; in.layer < config_.num_layers; ++in.layer)
        static_cast<void>(cache.attend(*arena_, in));
      cache.advance(1);
    });
  }

  Tensor make_rope_table_of(std::int64_t capacity) const {
    return KvCaches(KvArguments{}, config_, dtype_).make_table(*arena_, capacity);
  }

  // The roofline: all bytes of the cache once, at the rate at which the machine reads.
  void report(std::int64_t context, const std::string& name, std::int64_t bytes,
              const Seconds& s) const {
    const double least = static_cast<double>(bytes) / bandwidth_;
    if (a_.json) {
      fmt::print("{}\n", Json{{"context", context},
                              {"cache", name},
                              {"cache_bytes", bytes},
                              {"attention_ms", s.attention * 1e3},
                              {"of_first", s.attention / s.dense},
                              {"roofline", least / s.attention},
                              {"token_ms", s.token * 1e3},
                              {"read_gb_per_s", bandwidth_ / 1e9}}
                             .dump());
      return;
    }
    fmt::print("{:>8} {:<22} {:>10} {:>10.2f} {:>7.2f} {:>8.2f}", context, name,
               format_bytes(bytes), s.attention * 1e3, s.attention / s.dense, least / s.attention);
    if (s.token > 0) fmt::print(" {:>9.2f} {:>9.1f}", s.token * 1e3, 1 / s.token);
    fmt::print("\n");
  }

  const DecodeArguments& a_;
  const ModelConfig& config_;
  DType dtype_;
  Transformer model_;
  std::unique_ptr<Arena> arena_;
  double bandwidth_;
  std::unique_ptr<ResidentParamStore> store_;
};

void run_bench_decode(const DecodeArguments& a) {
  auto config = named_model_config(a.size);
  if (!config) throw_user("--size '{}': allowed {}", a.size, model_config_names());
  const std::int64_t longest = *std::max_element(a.contexts.begin(), a.contexts.end());
  config->max_positions = longest + 4 * a.steps;
  if (!a.kv->compressor.empty())
    throw_user("--compressor: a benchmark has no trained model; give a --kv-method");
  KvArguments full;
  full.method = "full";
  full.rope = a.kv->rope;  // one that differs from "dense"
  std::vector<CacheKind> kinds{{"dense", {}}, {"full, in blocks", full}};
  if (a.kv->method != "dense" || a.kv->options.bits != 16) {
    const std::string bits =
        a.kv->options.bits < 16 ? fmt::format(", {} bits", a.kv->options.bits) : "";
    const std::string budget = a.kv->budget ? fmt::format(" {}", *a.kv->budget) : "";
    kinds.push_back({a.kv->method + budget + bits, *a.kv});
  }
  DecodeBench bench(a, *config);
  if (!a.json) {
    fmt::print("{:>8} {:<22} {:>10} {:>10} {:>7} {:>8}{}\n", "context", "cache", "bytes", "attn ms",
               "/dense", "roofline", a.attention_only ? "" : "  token ms  tokens/s");
  }
  for (const std::int64_t context : a.contexts) {
    double dense_seconds = 0;
    for (const CacheKind& kind : kinds) bench.measure(context, kind, dense_seconds);
  }
}

}  // namespace

void add_bench_decode(CLI::App& bench, CommandSession& session) {
  auto a = std::make_shared<DecodeArguments>();
  CLI::App* decode = bench.add_subcommand(
      "decode", "Time per token over dense and compressed KV caches of random content");
  decode->add_option("--size", a->size, model_config_names());
  decode->add_option("--context", a->contexts, "Positions in the cache, comma-separated")
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  decode->add_option("--dtype", a->dtype, "bf16 or fp32")->check(CLI::IsMember({"bf16", "fp32"}));
  decode->add_option("--steps", a->steps, "Tokens that are timed")->check(CLI::PositiveNumber);
  decode->add_flag("--attention-only", a->attention_only, "Without the rest of the model");
  decode->add_flag("--json", a->json, "One JSON object per line");
  add_kv_options(*decode, a->kv);
  decode->footer(
      "Example:\n"
      "  thimble bench decode --size 130m --context 8192,32768 --kv-method window --kv-budget "
      "0.25");
  decode->callback([a, &session] {
    session.start();
    run_bench_decode(*a);
  });
}

}  // namespace thimble
