// What a compressed KV cache costs: the loss of tokens after a prefix that was compressed, beside
// that with a dense cache, and the divergence of the one's predictions from the other's.
#pragma once

#include "launcher/commands/kv_arguments.h"
#include "launcher/trainer/loaded_model.h"

namespace thimble {

struct PrefixTotals {
  std::int64_t tokens = 0, windows = 0;
  double dense_loss = 0, loss = 0, divergence = 0;  // sums in nats
  std::int64_t dense_bytes = 0, bytes = 0;          // of one window's cache
};

class PrefixEvaluator {
 public:
  /// Windows of up to `context` tokens; the first `prefix` of each are context only and go through
  /// the model in chunks, with evictions between them.
  PrefixEvaluator(LoadedModel& loaded, const KvCaches& caches, std::int64_t context,
                  std::int64_t prefix);

  void document(std::span<const std::int32_t> ids);
  /// On a planning arena: a whole window.
  void plan();
  const PrefixTotals& totals() const { return totals_; }

 private:
  void window(std::span<const std::int32_t> ids);
  void feed_prefix(KvCache& cache, std::span<const std::int32_t> ids) const;
  Tensor next_logits(KvCache& cache, std::span<const std::int32_t> ids) const;

  LoadedModel& loaded_;
  const KvCaches& caches_;
  std::int64_t context_, prefix_;
  Tensor rope_table_;
  PrefixTotals totals_;
};

}  // namespace thimble
