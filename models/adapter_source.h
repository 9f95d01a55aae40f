// Weights of a model with adapters: the model's own from another source, the adapters' from where
// they begin or from a directory that PEFT or a run wrote.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/io/safetensors_model.h"
#include "models/transformer.h"

namespace thimble {

/// Where adapters begin.
struct AdapterStart {
  std::filesystem::path directory;  // an adapter to go on from; empty: from nothing
  std::uint64_t seed = 0;           // of what is drawn
  DType dtype = DType::kF32;        // that the model computes with
};

/// The name that PEFT's files have for a tensor.
std::string adapter_tensor_name(std::string_view param);

/// Elements of a matrix that are measured at a time.
inline constexpr std::int64_t kMeasuredElements = std::int64_t{1} << 20;

/// A slice that is being read, as a matrix of whole rows of the storage.
inline Tensor rows_of_slice(const ParamInfo& info, Slice slice, const Tensor& dst) {
  const std::int64_t width = info.is_matrix() ? info.storage_shape()[1] : 1;
  return Tensor::wrap(dst.raw(), DType::kF32, Shape{slice.rows(), width}, dst.device());
}

/// a [r, in] and b [out, r], f32.
struct LowRankFactors {
  Tensor a, b;
};
/// Fills the factors that a start from a matrix's largest singular values needs. `weight`: the
/// matrix in its storage layout.
using PrincipalParts = std::function<void(Arena& arena, const ParamInfo& info, const Tensor& weight,
                                          double scale, const LowRankFactors& factors)>;

class AdapterSource final : public TensorSource {
 public:
  /// `base` has the model's own weights. Throws UserError naming all tensors of the directory that
  /// are missing, unexpected or of another shape than this model's. The model must outlive it.
  AdapterSource(Arena& arena, const Transformer& model, std::unique_ptr<TensorSource> base,
                const AdapterStart& start, PrincipalParts principal = {});
  void read(const ParamInfo& info, Slice slice, const Tensor& dst) override;

 private:
  enum class Part : std::uint8_t { kA, kB, kMagnitude, kScale, kInner, kOuter };
  struct Place {
    const AdaptedMatrix* matrix;
    Part part;
  };
  void open(const std::filesystem::path& directory);
  void begin(const Place& place, const ParamInfo& info, Slice slice, const Tensor& dst);
  void draw(const ParamInfo& info, Slice slice, const Tensor& dst) const;
  void lengths(const AdaptedMatrix& matrix, Slice slice, const Tensor& dst);
  void read_base(const ParamInfo& info, Slice slice, const Tensor& dst);
  const LowRankFactors& principal_of(const AdaptedMatrix& matrix);

  Arena& arena_;
  const Transformer& model_;
  std::unique_ptr<TensorSource> base_;
  AdapterStart start_;
  PrincipalParts make_principal_;
  std::map<std::string, Place> places_;  // by the parameter's name
  std::map<const AdaptedMatrix*, LowRankFactors> principal_;
  std::unique_ptr<SafetensorsFile> file_;  // of the directory
};

/// Configuration of a directory's adapter for this model: with the modules that its file has where
/// the configuration names them by an expression. Throws UserError as load_adapter_config() does.
AdapterFileConfig open_adapter_config(const std::filesystem::path& directory);

}  // namespace thimble
