#include "models/decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "core/base/random.h"
#include "models/rope_table.h"

namespace thimble {
namespace {

constexpr std::int64_t kPromptChunk = 512;

// Sequences of which every position is a segment's; tokens and positions are to be filled in.
Batch inputs_of(std::int64_t sequences, std::int64_t tokens) {
  Batch batch{.sequences = sequences, .seq_len = tokens};
  const auto count = static_cast<std::size_t>(sequences * tokens);
  batch.targets.assign(count, 0);
  batch.weights.assign(count, 0);
  batch.segment_start.assign(count, 0);
  batch.positions.resize(count);
  return batch;
}

void penalise(std::vector<float>& logits, std::span<const std::int32_t> history, double penalty) {
  std::vector<std::int32_t> seen(history.begin(), history.end());
  std::sort(seen.begin(), seen.end());
  seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
  for (const std::int32_t id : seen) {
    float& l = logits.at(static_cast<std::size_t>(id));
    l = static_cast<float>(l > 0 ? l / penalty : l * penalty);
  }
}

}  // namespace

std::int32_t sample_token(std::span<const float> given, const SamplingOptions& options,
                          std::int64_t index, std::span<const std::int32_t> history) {
  std::vector<float> logits(given.begin(), given.end());
  for (const std::int32_t id : options.never)
    logits.at(static_cast<std::size_t>(id)) = -std::numeric_limits<float>::infinity();
  if (options.repetition_penalty != 1) penalise(logits, history, options.repetition_penalty);
  if (options.temperature <= 0 || options.top_k == 1) {
    return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) -
                                     logits.begin());
  }
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
  });
  if (options.top_k > 0)
    order.resize(std::min(order.size(), static_cast<std::size_t>(options.top_k)));
  std::vector<double> p;
  double total = 0;
  const double top = logits[static_cast<std::size_t>(order[0])];
  for (const std::int32_t id : order) {
    p.push_back(std::exp((static_cast<double>(logits[static_cast<std::size_t>(id)]) - top) /
                         options.temperature));
    total += p.back();
  }
  // The smallest set of most likely tokens whose probability reaches top_p.
  double kept = 0;
  std::size_t count = 0;
  while (count < p.size() && (count == 0 || kept < options.top_p * total)) kept += p[count++];
  const CounterRandom random(options.seed, RandomPurpose::kSampling);
  double draw = static_cast<double>(random.uniform(static_cast<std::uint64_t>(index))) * kept;
  for (std::size_t i = 0; i + 1 < count; ++i) {
    if (draw < p[i]) return order[i];
    draw -= p[i];
  }
  return order[count - 1];
}

Decoder::Decoder(Arena& arena, const Transformer& model, ParamStore& store, DType dtype,
                 std::int64_t capacity)
    : arena_(arena),
      model_(model),
      store_(store),
      dtype_(dtype),
      own_(std::make_unique<DenseKvCache>(arena, model.config(), dtype, capacity)),
      cache_(own_.get()),
      rope_table_(make_rope_table(arena, model.config(), capacity)),
      prompt_chunk_(kPromptChunk) {}

Decoder::Decoder(Arena& arena, const Transformer& model, ParamStore& store, DType dtype,
                 const DecodingCache& cache)
    : arena_(arena),
      model_(model),
      store_(store),
      dtype_(dtype),
      cache_(&cache.kv),
      rope_table_(cache.rope_table),
      prompt_chunk_(cache.prompt_chunk) {
  TH_CHECK(rope_table_.dim(0) >= cache_->capacity() && prompt_chunk_ > 0);
}

std::vector<float> Decoder::feed(std::span<const std::int32_t> tokens) {
  TH_CHECK(!tokens.empty());
  const auto count = static_cast<std::int64_t>(tokens.size());
  if (length() + count > capacity()) {
    throw_user("the context holds {} positions; {} are needed", capacity(), length() + count);
  }
  std::vector<float> result(static_cast<std::size_t>(model_.config().vocab_size));
  for (std::int64_t begin = 0; begin < count; begin += prompt_chunk_) {
    const std::int64_t n = std::min(prompt_chunk_, count - begin);
    Batch batch = inputs_of(1, n);
    batch.tokens.assign(tokens.begin() + begin, tokens.begin() + begin + n);
    std::iota(batch.positions.begin(), batch.positions.end(), static_cast<std::int32_t>(length()));
    const BatchTensors t = upload(arena_, batch);
    Context ctx{.store = store_, .arena = arena_, .dtype = dtype_};
    const AttentionContext attention{.sequences = 1,
                                     .positions = t.positions,
                                     .segment_start = t.segment_start,
                                     .rope_table = rope_table_,
                                     .kv = cache_};
    if (begin + n < count) {
      static_cast<void>(model_.hidden(ctx, t.ids, t.order, attention));
    } else {
      ops::to_host(result.data(), model_.next_logits(ctx, t.ids, t.order, attention));
    }
    cache_->advance(n);
  }
  return result;
}

std::vector<std::vector<float>> decode_batch(Context& ctx, const Transformer& model,
                                             const Tensor& rope_table,
                                             std::span<const NextToken> tokens) {
  TH_CHECK(!tokens.empty());
  Batch batch = inputs_of(static_cast<std::int64_t>(tokens.size()), 1);
  batch.tokens.clear();
  std::vector<KvBatch::Part> parts;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    KvCache& cache = *tokens[i].cache;
    TH_CHECK(cache.length() < cache.capacity() && cache.length() < rope_table.dim(0));
    batch.tokens.push_back(tokens[i].token);
    batch.positions[i] = narrow<std::int32_t>(cache.length());
    parts.push_back({&cache, 1});
  }
  KvBatch store(std::move(parts));
  const BatchTensors t = upload(ctx.arena, batch);
  const Var hidden = model.hidden(ctx, t.ids, t.order,
                                  {.sequences = batch.sequences,
                                   .positions = t.positions,
                                   .segment_start = t.segment_start,
                                   .rope_table = rope_table,
                                   .kv = &store});
  const Tensor logits = model.logits(ctx, hidden.value);
  std::vector<std::vector<float>> out;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    out.emplace_back(static_cast<std::size_t>(logits.dim(1)));
    const auto row = static_cast<std::int64_t>(i);
    ops::to_host(out.back().data(), logits.rows(row, row + 1));
    tokens[i].cache->advance(1);
  }
  return out;
}

}  // namespace thimble
