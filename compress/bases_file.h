// Channel bases in kvc.safetensors: made of moments in closed form, written, and read for a cache.
#pragma once

#include <memory>

#include "compress/channel_bases.h"
#include "compress/kvc_file.h"
#include "compress/moments.h"
#include "core/nn/attention_context.h"

namespace thimble {

/// Collects the moments of every layer's keys after RoPE and of its values, as a model runs over a
/// text.
class ChannelMoments final : public LayerTap {
 public:
  /// 16 * layers * Hkv * (D + D * D) bytes in the arena (tag workspace).
  ChannelMoments(Arena& arena, const BackboneShape& shape);
  void after_rope(int layer, Var& q, Var& k, Var& v) override;
  const HeadMoments& keys(int layer) const { return keys_.at(static_cast<std::size_t>(layer)); }
  const HeadMoments& values(int layer) const { return values_.at(static_cast<std::size_t>(layer)); }

 private:
  std::vector<HeadMoments> keys_, values_;
};

/// The principal axes of moments: row c * D.. of the transpose is axis c, so that the result
/// [D, D], row-major, has axes as its columns, by the variance along them. Of all bases of r
/// orthonormal vectors the first r lose the least of the squared lengths: the sum of the last D - r
/// eigenvalues.
std::vector<float> principal_axes(const VectorMoments& moments);

/// Writes a compressor of bases, as export_compressor() does.
std::optional<std::filesystem::path> export_bases(const KvcExport& options,
                                                  const ChannelMoments& moments);

/// Bases for decoding with a model of this shape, which computes in `dtype`: in the arena (tag
/// weights), of the first config.ranks coordinates. Throws UserError as load_heads() does.
std::shared_ptr<const ChannelBases> load_bases(Arena& arena, const KvcConfig& config,
                                               const BackboneShape& shape,
                                               const std::filesystem::path& directory, DType dtype);

}  // namespace thimble
