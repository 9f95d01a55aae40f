// What a compressed KV cache keeps and in which form, as a user asks for it, and what that comes to
// for one model and context: tokens per layer, blocks and bytes. Every combination that does not
// work is refused here, by name.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/dtype.h"

namespace thimble {

class ChannelBases;
class RetainingHeads;

/// Which positions stay when a head holds more than its budget.
enum class KvMethod : std::uint8_t {
  kFull,      // all
  kWindow,    // sinks and the most recent ones
  kRandom,    // sinks, the most recent ones, and others by lot
  kKnorm,     // those whose keys are short
  kH2o,       // those that have drawn most attention so far
  kSnapKv,    // those that the most recent queries attend to
  kExpected,  // those that queries to come are expected to attend to
  kTrained,   // those that trained heads rate highest
};

/// How the budget of a layer is dealt to its heads, and that of a model to its layers.
enum class KvAllocation : std::uint8_t { kEven, kAda, kPyramid, kAdaPyramid };

/// Whether keys are stored before or after RoPE.
enum class RopeStage : std::uint8_t { kPost, kPre };

/// The positions that keys and queries are rotated to: those of the text, or their places in the
/// cache, so that a text may be longer than a model's context.
enum class PositionPolicy : std::uint8_t { kOriginal, kSlots };

struct KvOptions {
  KvMethod method = KvMethod::kFull;
  double budget = 1;         // up to 1: a share of the context; else positions per head
  std::int64_t sinks = 4;    // first positions that always stay
  std::int64_t window = 32;  // most recent positions that always stay, exact
  KvAllocation allocation = KvAllocation::kEven;
  std::int64_t pooling = 5;  // SnapKV: neighbours that are averaged; odd
  std::int64_t bits = 16;    // of keys and values outside of the window: 16 (as computed), 8, 4, 2
  std::int64_t group = 32;   // tokens of a channel of keys that share a scale: 32 or 64
  RopeStage rope_stage = RopeStage::kPost;
  PositionPolicy positions = PositionPolicy::kOriginal;
  std::uint64_t seed = 0;                                 // of kRandom
  std::shared_ptr<const RetainingHeads> heads = nullptr;  // of kTrained
  /// Keys and values are stored as coordinates in these; null: as they are.
  std::shared_ptr<const ChannelBases> bases = nullptr;
};

/// Spellings, in the order of the enumerations, and the value of one; kTrained, which a compressor
/// brings along, is no choice. Throw UserError naming `option`.
std::vector<std::string> kv_method_names();
std::vector<std::string> kv_allocation_names();
KvMethod parse_kv_method(std::string_view text, std::string_view option);
KvAllocation parse_kv_allocation(std::string_view text, std::string_view option);
std::string_view kv_method_name(KvMethod method);

/// The model's part, and the context: positions that a sequence may grow to.
struct KvShape {
  std::int64_t layers = 0, heads = 0, kv_heads = 0, head_dim = 0;
  std::vector<std::int64_t> windows;  // per layer; 0 = full attention
  DType dtype = DType::kBF16;
  std::int64_t capacity = 0;

  std::int64_t dense_bytes() const {
    return 2 * layers * kv_heads * head_dim * dtype_size(dtype) * capacity;
  }
};

/// Tokens of a block of the cache, of one head of one layer.
inline constexpr std::int64_t kBlockTokens = 64;

/// What one layer keeps. A layer of a model with sliding windows keeps its window, whatever the
/// method, which loses nothing.
struct LayerPlan {
  KvMethod method = KvMethod::kFull;
  std::int64_t budget = 0;  // positions per head that an eviction leaves, on average over heads
  std::int64_t limit = 0;   // positions per head before one takes place
  std::int64_t sinks = 0, window = 0;
  bool ragged = false;  // heads of different lengths
};

struct KvPlan {
  KvOptions options;
  KvShape shape;
  std::vector<LayerPlan> layers;
  std::int64_t plain_blocks = 0, packed_blocks = 0;  // of all heads and layers, at most
};

/// Throws UserError for options that are out of range, exclude each other or do not fit the model.
KvPlan make_kv_plan(const KvOptions& options, const KvShape& shape);

}  // namespace thimble
