#include "launcher/commands/eval_prefix.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/base/threads.h"

namespace thimble {
namespace {

constexpr std::int64_t kRows = 128;  // of logits that exist at once

// Log of the softmax's denominator.
double log_sum(std::span<const float> logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float l : logits) sum += std::exp(l - top);
  return top + std::log(sum);
}

struct RowLosses {
  double dense = 0, mine = 0, divergence = 0;
};

RowLosses compare_row(std::span<const float> dense, std::span<const float> mine,
                      std::int32_t target) {
  const double dense_log = log_sum(dense), mine_log = log_sum(mine);
  const auto t = static_cast<std::size_t>(target);
  RowLosses out{.dense = dense_log - dense[t], .mine = mine_log - mine[t]};
  for (std::size_t i = 0; i < dense.size(); ++i) {
    const double p = std::exp(dense[i] - dense_log);
    out.divergence += p * ((dense[i] - dense_log) - (mine[i] - mine_log));
  }
  return out;
}

}  // namespace

PrefixEvaluator::PrefixEvaluator(LoadedModel& loaded, const KvCaches& caches, std::int64_t context,
                                 std::int64_t prefix)
    : loaded_(loaded),
      caches_(caches),
      context_(context),
      prefix_(prefix),
      rope_table_(caches.make_table(*loaded.arena, context)) {}

void PrefixEvaluator::plan() {
  window(std::vector<std::int32_t>(static_cast<std::size_t>(context_ + 1)));
}

void PrefixEvaluator::document(std::span<const std::int32_t> ids) {
  const auto least = static_cast<std::size_t>(prefix_ + 2);
  while (ids.size() >= least) {
    const std::size_t n = std::min(ids.size(), static_cast<std::size_t>(context_ + 1));
    window(ids.first(n));
    ids = ids.subspan(n - 1);
  }
}

void PrefixEvaluator::feed_prefix(KvCache& cache, std::span<const std::int32_t> ids) const {
  Decoder decoder(
      *loaded_.arena, *loaded_.model, *loaded_.store, loaded_.dtype,
      DecodingCache{
          .kv = cache, .rope_table = rope_table_, .prompt_chunk = caches_.prompt_chunk()});
  static_cast<void>(decoder.feed(ids));
}

// Logits [n, V] after each of the ids.
Tensor PrefixEvaluator::next_logits(KvCache& cache, std::span<const std::int32_t> ids) const {
  const auto n = static_cast<std::int64_t>(ids.size());
  Batch batch{.sequences = 1, .seq_len = n};
  batch.tokens.assign(ids.begin(), ids.end());
  batch.targets.assign(ids.size(), 0);
  batch.weights.assign(ids.size(), 0);
  batch.segment_start.assign(ids.size(), 0);
  batch.positions.resize(ids.size());
  std::iota(batch.positions.begin(), batch.positions.end(),
            static_cast<std::int32_t>(cache.length()));
  const BatchTensors t = upload(*loaded_.arena, batch);
  Context ctx{.store = *loaded_.store, .arena = *loaded_.arena, .dtype = loaded_.dtype};
  const Var hidden = loaded_.model->hidden(ctx, t.ids, t.order,
                                           {.sequences = 1,
                                            .positions = t.positions,
                                            .segment_start = t.segment_start,
                                            .rope_table = rope_table_,
                                            .kv = &cache});
  cache.advance(n);
  return loaded_.model->logits(ctx, hidden.value);
}

void PrefixEvaluator::window(std::span<const std::int32_t> ids) {
  const auto n = static_cast<std::int64_t>(ids.size()) - 1;  // inputs
  DenseKvCache dense(*loaded_.arena, loaded_.model->config(), loaded_.dtype, context_);
  const std::unique_ptr<KvCache> mine = caches_.make(*loaded_.arena, context_);
  for (KvCache* cache : {static_cast<KvCache*>(&dense), mine.get()})
    feed_prefix(*cache, ids.first(static_cast<std::size_t>(prefix_)));
  for (std::int64_t begin = prefix_; begin < n; begin += kRows) {
    const std::int64_t count = std::min(kRows, n - begin);
    const auto some = ids.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
    const Tensor a = next_logits(dense, some), b = next_logits(*mine, some);
    if (loaded_.arena->device().planning) continue;
    const auto vocab = static_cast<std::size_t>(a.dim(1));
    std::vector<RowLosses> rows(static_cast<std::size_t>(count));
    parallel_for_each(count, 30 * a.dim(1), [&](std::int64_t r) {
      rows[static_cast<std::size_t>(r)] = compare_row({a.data<float>() + r * a.dim(1), vocab},
                                                      {b.data<float>() + r * a.dim(1), vocab},
                                                      ids[static_cast<std::size_t>(begin + r + 1)]);
    });
    for (const RowLosses& row : rows) {
      totals_.dense_loss += row.dense;
      totals_.loss += row.mine;
      totals_.divergence += row.divergence;
    }
    totals_.tokens += count;
  }
  ++totals_.windows;
  totals_.dense_bytes = dense.bytes();
  totals_.bytes = mine->bytes();
}

}  // namespace thimble
