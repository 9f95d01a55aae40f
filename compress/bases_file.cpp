#include "compress/bases_file.h"

#include "compress/kvc_tensors.h"
#include "core/base/threads.h"
#include "core/io/safetensors.h"
#include "core/io/staged.h"
#include "core/ops/ops.h"

namespace thimble {
namespace {

// What a layer has of keys ("k") or of values ("v").
struct BaseNames {
  std::string basis, mean;
};
BaseNames base_names(int layer, char of) {
  return {fmt::format("layers.{}.mkv.{}_basis", layer, of),
          fmt::format("layers.{}.mkv.{}_mean", layer, of)};
}

// Axes and means of all heads of one part of a layer, as they are written.
struct WrittenPart {
  std::vector<float> basis, mean;
};
WrittenPart write_part(const HeadMoments& moments, std::int64_t heads) {
  std::vector<WrittenPart> parts(static_cast<std::size_t>(heads));
  parallel_for_each(heads, std::int64_t{1} << 20, [&](std::int64_t h) {
    const VectorMoments of = moments.of(h);
    WrittenPart& part = parts[static_cast<std::size_t>(h)];
    part.basis = principal_axes(of);
    part.mean.assign(of.mean.begin(), of.mean.end());
  });
  WrittenPart all;
  for (const WrittenPart& part : parts) {
    all.basis.insert(all.basis.end(), part.basis.begin(), part.basis.end());
    all.mean.insert(all.mean.end(), part.mean.begin(), part.mean.end());
  }
  return all;
}

// The first `rank` axes of every head, for a cache.
ChannelBases::Part load_part(Arena& arena, const KvcTensors& tensors, const BaseNames& names,
                             std::int64_t rank, DType dtype) {
  const Tensor basis = tensors.read(arena, names.basis), mean = tensors.read(arena, names.mean);
  const std::int64_t heads = mean.dim(0), d = mean.dim(1);
  const Tensor axes =
      Tensor::empty(arena, MemoryTag::kIo, DType::kF32, Shape{heads * d, rank}, "axes");
  const Tensor shift =
      Tensor::empty(arena, MemoryTag::kIo, DType::kF32, Shape{heads, rank}, "shifts");
  for (std::int64_t h = 0; h < heads && !arena.device().planning; ++h) {
    for (std::int64_t c = 0; c < rank; ++c) {
      double sum = 0;
      for (std::int64_t i = 0; i < d; ++i) {
        const float value = basis.data<float>()[(h * d + i) * d + c];
        axes.data<float>()[(h * d + i) * rank + c] = value;
        sum += static_cast<double>(value) * mean.data<float>()[h * d + i];
      }
      shift.data<float>()[h * rank + c] = static_cast<float>(-sum);
    }
  }
  const auto kept = [&](const Tensor& from) {
    Tensor to = Tensor::empty(arena, MemoryTag::kWeights, dtype, from.shape(), "channel bases");
    ops::cast(to, from);
    return to;
  };
  return {.basis = kept(axes), .shift = kept(shift), .mean = kept(mean)};
}

}  // namespace

ChannelMoments::ChannelMoments(Arena& arena, const BackboneShape& shape) {
  for (std::int64_t l = 0; l < shape.layers; ++l) {
    keys_.emplace_back(arena, MemoryTag::kWorkspace, shape.kv_heads, shape.head_dim);
    values_.emplace_back(arena, MemoryTag::kWorkspace, shape.kv_heads, shape.head_dim);
  }
}

void ChannelMoments::after_rope(int layer, Var& /*q*/, Var& k, Var& v) {
  keys_.at(static_cast<std::size_t>(layer)).add(k.value);
  values_.at(static_cast<std::size_t>(layer)).add(v.value);
}

std::vector<float> principal_axes(const VectorMoments& moments) {
  const auto d = static_cast<std::int64_t>(moments.mean.size());
  const SymmetricEigen eigen = symmetric_eigen(moments.covariance, d);
  std::vector<float> axes;
  for (std::int64_t i = 0; i < d; ++i) {
    for (std::int64_t c = 0; c < d; ++c)
      axes.push_back(static_cast<float>(eigen.vectors[static_cast<std::size_t>(c * d + i)]));
  }
  return axes;
}

std::optional<std::filesystem::path> export_bases(const KvcExport& options,
                                                  const ChannelMoments& moments) {
  const KvcBase& base = options.config.base;
  StagedDirectory staged(options.directory);
  write_file_atomic(staged.path() / kKvcConfigName, kvc_config_json(options.config));
  std::vector<SafetensorsSpec> specs;
  for (int layer = 0; layer < base.layers; ++layer) {
    for (const char of : {'k', 'v'}) {
      const BaseNames names = base_names(layer, of);
      specs.push_back({names.basis, DType::kF32, {base.kv_heads, base.head_dim, base.head_dim}});
      specs.push_back({names.mean, DType::kF32, {base.kv_heads, base.head_dim}});
    }
  }
  SafetensorsWriter writer(staged.path() / kKvcFileName, specs,
                           {{"format", "kvc"}, {"version", "1"}});
  for (int layer = 0; layer < base.layers; ++layer) {
    for (const char of : {'k', 'v'}) {
      const BaseNames names = base_names(layer, of);
      const HeadMoments& part = of == 'k' ? moments.keys(layer) : moments.values(layer);
      const WrittenPart written = write_part(part, base.kv_heads);
      writer.write(names.basis, std::as_bytes(std::span(written.basis)));
      writer.write(names.mean, std::as_bytes(std::span(written.mean)));
    }
  }
  writer.finish();
  return staged.put_in_place();
}

std::shared_ptr<const ChannelBases> load_bases(Arena& arena, const KvcConfig& config,
                                               const BackboneShape& shape,
                                               const std::filesystem::path& directory,
                                               DType dtype) {
  std::map<std::string, Shape> expected;
  for (int layer = 0; layer < shape.layers; ++layer) {
    for (const char of : {'k', 'v'}) {
      const BaseNames names = base_names(layer, of);
      expected[names.basis] = Shape{shape.kv_heads, shape.head_dim, shape.head_dim};
      expected[names.mean] = Shape{shape.kv_heads, shape.head_dim};
    }
  }
  const KvcTensors tensors(directory, expected);
  const ChannelRanks ranks = config.compressor.ranks;
  std::vector<ChannelBases::Layer> layers;
  for (int layer = 0; layer < shape.layers; ++layer) {
    layers.push_back(
        {.keys = load_part(arena, tensors, base_names(layer, 'k'), ranks.key, dtype),
         .values = load_part(arena, tensors, base_names(layer, 'v'), ranks.value, dtype)});
  }
  return std::make_shared<ChannelBases>(std::move(layers));
}

}  // namespace thimble
