// The tensors of a compressor: where training begins, what it exports, what a cache reads.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include "compress/compressor_model.h"
#include "compress/kvc_config.h"
#include "compress/retaining_heads.h"

namespace thimble {

/// Where the parameters of a compressor begin.
struct CompressorStart {
  std::filesystem::path directory;  // a compressor to go on from; empty: random
  std::uint64_t seed = 0;
};

/// The model's weights from `base`, the compressor's from where they begin: of a directory, or
/// drawn from a normal distribution of standard deviation 0.02, each by seed, name and index alone.
class CompressorSource final : public TensorSource {
 public:
  /// The model must outlive it. Throws UserError, naming the directory, for tensors that are not
  /// this compressor's.
  CompressorSource(Arena& arena, const CompressorModel& model, std::unique_ptr<TensorSource> base,
                   const CompressorStart& start);
  ~CompressorSource() override;
  void read(const ParamInfo& info, Slice slice, const Tensor& dst) override;

 private:
  struct Opened;
  Arena& arena_;
  const CompressorModel& model_;
  std::unique_ptr<TensorSource> base_;
  std::uint64_t seed_;
  std::unique_ptr<Opened> opened_;  // of the directory
};

struct KvcExport {
  std::filesystem::path directory;
  DType dtype = DType::kBF16;  // of the tensors; bases are f32, to stay orthogonal
  KvcConfig config;
  bool writes = true;  // false: another rank does
};

/// Writes the directory under a name of its own, reads it back and puts it in place; what was there
/// is moved aside, and returned where to. All ranks call it together. On a planning arena only
/// memory is reserved.
std::optional<std::filesystem::path> export_compressor(Arena& arena, const CompressorModel& model,
                                                       ParamStore& store, const KvcExport& options);

/// Bytes of the tensors that are exported: bases in f32, heads in `dtype`.
std::int64_t exported_bytes(const CompressorModel& model, DType dtype);

/// Heads for decoding with a model of this shape, which computes in `dtype`: in the arena (tag
/// weights). Throws UserError naming the file for a tensor that is missing, unexpected or of
/// another shape or type.
std::shared_ptr<const RetainingHeads> load_heads(Arena& arena, const KvcConfig& config,
                                                 const BackboneShape& shape,
                                                 const std::filesystem::path& directory,
                                                 DType dtype);

}  // namespace thimble
