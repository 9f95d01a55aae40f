// The options of commands that decode with a KV cache: dense, or compressed.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "compress/compressed_cache.h"
#include "compress/kvc_config.h"
#include "launcher/trainer/loaded_model.h"
#include "models/decoder.h"

namespace CLI {
class App;
}

namespace thimble {

struct KvArguments {
  std::string method = "dense", allocation = "even";
  // Without these, what the compressor says, or KvOptions.
  std::optional<std::string> rope, positions;
  std::optional<double> budget;
  std::optional<std::int64_t> sinks, window;
  std::optional<std::int64_t> key_rank, value_rank;  // of a compressor with bases
  std::string memory;        // the most bytes of all caches; empty: what is free
  std::string compressor;    // a directory or a run; empty: none
  bool any_weights = false;  // of the compressor's model
  KvOptions options;         // the other numbers
  std::int64_t prompt_chunk = 512;

  bool is_dense() const { return method == "dense" && options.bits == 16 && compressor.empty(); }
};

/// --kv-method, --compressor and what belongs to them.
void add_kv_options(CLI::App& command, const std::shared_ptr<KvArguments>& arguments);

/// How sequences of one model are cached.
class KvCaches {
 public:
  /// Throws UserError for what the options or the model exclude, as a compressor.
  KvCaches(const KvArguments& arguments, const ModelConfig& config, DType dtype);
  /// With the heads of a compressor in the model's arena, which the caches outlive no more than the
  /// model. Throws UserError also for a compressor that cannot be read, or of another model.
  KvCaches(const KvArguments& arguments, const LoadedModel& loaded);

  /// Null: dense.
  bool is_dense() const { return !options_; }
  /// Whether a sequence may be longer than the model's context.
  bool is_endless() const { return options_ && options_->positions == PositionPolicy::kSlots; }
  std::int64_t prompt_chunk() const { return prompt_chunk_; }
  std::unique_ptr<KvCache> make(Arena& arena, std::int64_t capacity) const;
  /// The RoPE table for sequences of up to `capacity` positions.
  Tensor make_table(Arena& arena, std::int64_t capacity) const;
  std::int64_t bytes(std::int64_t capacity) const;
  std::int64_t dense_bytes(std::int64_t capacity) const;
  /// Throws UserError if caches of these capacities exceed `limit_bytes`, naming the bytes wanted
  /// and the longest context that would fit.
  void check_fits(const std::vector<std::int64_t>& capacities, std::int64_t limit_bytes) const;
  /// --kv-memory, or `otherwise`.
  std::int64_t limit_bytes(std::int64_t otherwise) const { return limit_.value_or(otherwise); }
  /// "key-value cache 1.2 MiB, 25.0 % of the dense 4.8 MiB (snapkv, ...)".
  std::string describe(const std::vector<std::int64_t>& capacities) const;

 private:
  KvShape shape(std::int64_t capacity) const;
  void open_compressor(const KvArguments& arguments, const LoadedModel& loaded);
  void check_model() const;

  std::optional<KvOptions> options_;
  std::string compressor_name_;    // empty: there is none
  std::int64_t static_bytes_ = 0;  // of its heads or bases
  std::optional<std::int64_t> limit_;
  const ModelConfig& config_;
  DType dtype_;
  std::int64_t prompt_chunk_;
};

}  // namespace thimble
