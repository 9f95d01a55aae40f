// What is trained beside a frozen model so that its KV cache may be smaller, and what of the model
// this has to know, in plain values.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/dtype.h"

namespace thimble {

enum class CompressorKind : std::uint8_t {
  kLocret,      // retaining heads on the queries, keys and values of a position
  kMatryoshka,  // orthogonal bases of keys and values, stored by their first coordinates
};

/// Spellings, in the order of the enumeration, and the value of one. parse_compressor_kind throws
/// UserError that begins with `where` and names what is allowed.
std::vector<std::string> compressor_kind_names();
std::string_view compressor_kind_name(CompressorKind kind);
CompressorKind parse_compressor_kind(std::string_view text, std::string_view where);

/// Between the two layers of a head.
enum class HeadActivation : std::uint8_t { kSilu, kGeluTanh };

/// The model's part.
struct BackboneShape {
  std::int64_t layers = 0, hidden_size = 0, heads = 0, kv_heads = 0, head_dim = 0;
  std::vector<std::int64_t> windows;  // per layer; 0: full attention
  float score_scale = 1;              // of the products of queries and keys
  HeadActivation activation = HeadActivation::kSilu;

  std::int64_t query_width() const { return heads * head_dim; }
  std::int64_t kv_width() const { return kv_heads * head_dim; }
  /// Layers with a sliding window keep just that window: nothing is trained for them.
  bool has_heads(int layer) const { return windows.at(static_cast<std::size_t>(layer)) == 0; }
  std::int64_t layers_with_heads() const;
};

/// How the smoothness of predictions is weighed; n labelled positions, L layers, Hkv heads.
enum class SmoothnessSum : std::uint8_t {
  kLayers,  // alpha times the sum over layers of means over positions and heads
  kMean,    // alpha times the mean over positions, heads and layers
};

/// What a cache keeps with a compressor unless a command says otherwise; see KvOptions.
struct CompressedCacheDefaults {
  double budget = 0.25;
  std::int64_t sinks = 4, window = 32;
  friend bool operator==(const CompressedCacheDefaults&, const CompressedCacheDefaults&) = default;
};

/// Channels of a key and of a value that are stored.
struct ChannelRanks {
  std::int64_t key = 0, value = 0;
  friend bool operator==(const ChannelRanks&, const ChannelRanks&) = default;
};

struct CompressorConfig {
  CompressorKind kind = CompressorKind::kLocret;
  ChannelRanks ranks;        // of kMatryoshka; what follows is kLocret's
  std::int64_t width = 256;  // of the hidden layer of a head
  double alpha = 0.0025;     // of the smoothness of predictions
  SmoothnessSum alpha_sum = SmoothnessSum::kLayers;
  /// The last positions of every document that stand for the answer; 0: what the data trains on is.
  std::int64_t answer_tokens = 0;
  CompressedCacheDefaults cache;
  friend bool operator==(const CompressorConfig&, const CompressorConfig&) = default;
};

}  // namespace thimble
