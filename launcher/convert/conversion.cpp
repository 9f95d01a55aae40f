#include "launcher/convert/conversion.h"

#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "launcher/convert/fused_params.h"
#include "launcher/convert/gguf_model.h"
#include "launcher/convert/open_image.h"
#include "launcher/convert/output_files.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

bool needs_model(ConversionTarget target) {
  return target == ConversionTarget::kHuggingFace || target == ConversionTarget::kThimble ||
         target == ConversionTarget::kMegatron || target == ConversionTarget::kGguf;
}

// Whether there is no such checkpoint without optimizer state.
bool needs_state(ConversionTarget target) {
  return target == ConversionTarget::kThimble || target == ConversionTarget::kUniversal ||
         target == ConversionTarget::kZero;
}

// Whether the target has masters in f32 beside the weights that the model computes with.
bool keeps_masters(ConversionTarget target) {
  return target == ConversionTarget::kZero;
}

bool holds_state(ConversionTarget target) {
  return target != ConversionTarget::kHuggingFace && target != ConversionTarget::kMegatron &&
         target != ConversionTarget::kGguf;
}

// Of the weights, if nothing is asked for: a model directory gets what the model computes with, a
// checkpoint all that there is.
DType chosen_dtype(const CheckpointImage& image, const ConversionRequest& request) {
  if (keeps_masters(request.target)) return request.dtype.value_or(image.dtype);
  if (needs_state(request.target)) {
    if (request.dtype.value_or(DType::kF32) != DType::kF32)
      throw_user("--dtype bf16: the target keeps its weights in fp32");
    return DType::kF32;
  }
  if (request.target == ConversionTarget::kGguf) {
    const GgufType type = chosen_gguf_type(image, request);
    return type == GgufType::kBF16 ? DType::kBF16 : DType::kF32;
  }
  if (request.dtype) return *request.dtype;
  if (request.target == ConversionTarget::kHuggingFace) return image.dtype;
  const bool narrow = std::all_of(image.params.begin(), image.params.end(), [](const auto& entry) {
    return entry.second.best().dtype == DType::kBF16;
  });
  return narrow ? DType::kBF16 : DType::kF32;
}

void check_precision(const CheckpointImage& image, DType dtype, const ConversionRequest& request) {
  if (request.allow_cast || dtype == DType::kF32 || keeps_masters(request.target)) return;
  const bool for_use =
      request.target == ConversionTarget::kHuggingFace || request.target == ConversionTarget::kGguf;
  if (for_use && dtype == image.dtype) return;
  for (const auto& [name, param] : image.params) {
    if (param.best().dtype == dtype) continue;
    throw_user("{}: tensor {} is {} and would lose precision as {}; --allow-cast permits it",
               image.path.string(), name, dtype_name(param.best().dtype), dtype_name(dtype));
  }
}

// Without the rows that no token of the model has.
void drop_padding(CheckpointImage& image) {
  for (const char* table : {kEmbeddingName, kHeadName}) {
    const auto found = image.params.find(table);
    if (found == image.params.end()) continue;
    std::int64_t& rows = found->second.weight.shape[0];
    rows = std::min(rows, image.origin->config.vocab_size);
  }
}

// Only the parameters of the model, under its names.
void keep_model(CheckpointImage& image, const ConversionRequest& request) {
  if (!image.origin) {
    if (!needs_model(request.target)) return;
    throw_user(
        "{}: a {} without a config.json; --model names a model directory, or a config.json, whose "
        "configuration it has",
        image.path.string(), image.kind);
  }
  if (image.vocab_is_padded) drop_padding(image);
  const Transformer model(image.origin->config);
  split_fused(image, model.params());
  std::vector<ImageParam> params = params_of_model(image, model.params());
  image.params.clear();
  image.aliases.clear();
  if (image.origin->config.tied_lm_head) image.aliases.emplace(kHeadName, kEmbeddingName);
  for (const ParamId id : model.params().ids()) {
    image.params.emplace(model.params().info(id).name,
                         std::move(params[static_cast<std::size_t>(id)]));
  }
}

ImageParam output_param(const ImageParam& param, DType dtype, ConversionTarget target,
                        bool with_state) {
  ImageParam out;
  out.weight = as_dtype(param.weight.dtype == dtype ? param.weight : param.best(), dtype);
  if (keeps_masters(target)) out.master = as_dtype(param.best(), DType::kF32);
  if (!with_state) return out;
  out.exp_avg = as_dtype(*param.exp_avg, DType::kF32);
  out.exp_avg_sq = as_dtype(*param.exp_avg_sq, DType::kF32);
  return out;
}

WriteOptions allowed(WriteOptions options, const CheckpointImage& image) {
  if (image.reads_whole_tensors) options.threads = 1;
  return options;
}

struct Comparison {
  std::string name;
  const StoredArray *wanted, *found;
};

void compare(const Comparison& arrays, std::int64_t window_bytes) {
  const auto& [name, wanted_at, found_at] = arrays;
  const StoredArray &wanted = *wanted_at, &found = *found_at;
  if (found.dtype != wanted.dtype || found.shape != wanted.shape) {
    throw_system("{} was written as {} [{}] and reads back as {} [{}]", name,
                 dtype_name(wanted.dtype), fmt::join(wanted.shape, ", "), dtype_name(found.dtype),
                 fmt::join(found.shape, ", "));
  }
  std::vector<std::byte> a, b;
  for_rows(wanted, window_bytes, [&](std::int64_t first, std::int64_t count) {
    a.resize(static_cast<std::size_t>(count * dtype_size(wanted.dtype)));
    b.resize(a.size());
    wanted.reader->read(first, a);
    found.reader->read(first, b);
    if (std::memcmp(a.data(), b.data(), a.size()) != 0)
      throw_system("{} reads back differently from what was written", arrays.name);
  });
}

}  // namespace

GgufType chosen_gguf_type(const CheckpointImage& image, const ConversionRequest& request) {
  if (request.gguf_type) return *request.gguf_type;
  return image.dtype == DType::kBF16 ? GgufType::kBF16 : GgufType::kF32;
}

CheckpointImage output_image(CheckpointImage source, const ConversionRequest& request) {
  keep_model(source, request);
  if (needs_state(request.target)) {
    if (request.weights_only) {
      throw_user(
          "--weights-only: there is no such checkpoint without optimizer state; a model "
          "directory (--to hf) holds weights alone");
    }
    if (!source.has_state())
      throw_user("{}: the target holds optimizer state, and {}", source.path.string(),
                 source.why_no_state);
  }
  if (request.target == ConversionTarget::kGguf) {
    for (std::string& note : gguf_notes(source.origin->config))
      source.notes.push_back(std::move(note));
  }
  const DType dtype = chosen_dtype(source, request);
  check_precision(source, dtype, request);
  const bool with_state =
      holds_state(request.target) && !request.weights_only && source.has_state();
  for (auto& [name, param] : source.params)
    param = output_param(param, dtype, request.target, with_state);
  std::erase_if(source.aliases,
                [&](const auto& alias) { return !source.params.contains(alias.second); });
  const bool by_our_names = request.target == ConversionTarget::kThimble ||
                            request.target == ConversionTarget::kMegatron ||
                            request.target == ConversionTarget::kGguf;
  if (source.origin && source.origin->config.fused_projections && !by_our_names)
    join_fused(source, Transformer(source.origin->config).params());
  source.dtype = dtype;
  return source;
}

void write_image(const CheckpointImage& image, ConversionTarget target, const fs::path& place,
                 const WriteOptions& asked) {
  const WriteOptions options = allowed(asked, image);
  switch (target) {
    case ConversionTarget::kHuggingFace:
      return write_hf_image(image, place, options);
    case ConversionTarget::kThimble:
      return write_thimble_image(image, place, options);
    case ConversionTarget::kDcp:
      return write_files(dcp_files(image), place, options);
    case ConversionTarget::kUniversal:
      return write_files(universal_files(image), place, options);
    case ConversionTarget::kZero:
      return write_files(zero_files(image, options), place, options);
    case ConversionTarget::kTorch:
      return write_files(torch_files(image, place.filename()), place.parent_path(), options);
    case ConversionTarget::kMegatron:
      return write_files(megatron_files(image, options), place, options);
    case ConversionTarget::kGguf:
      return write_files(gguf_files(image, place.filename(), options.gguf_type),
                         place.parent_path(), options);
  }
}

void verify_image(const CheckpointImage& image, const fs::path& place, const WriteOptions& asked) {
  const WriteOptions options = allowed(asked, image);
  const CheckpointImage written = open_image(place);
  if (written.params.size() != image.params.size()) {
    throw_system("{}: {} tensors were written and {} read back", place.string(),
                 image.params.size(), written.params.size());
  }
  if (image.has_state() && written.step != image.step)
    throw_system("{}: step {} was written and {} read back", place.string(), image.step,
                 written.step);
  std::vector<Comparison> all;
  for (const auto& [name, param] : image.params) {
    const auto found = written.params.find(name);
    if (found == written.params.end())
      throw_system("{}: tensor {} was not written", place.string(), name);
    all.push_back({"tensor " + name, &param.best(), &found->second.best()});
    if (param.master && found->second.master)
      all.push_back({"weight of " + name, &param.weight, &found->second.weight});
    const auto moment = [&](const std::optional<StoredArray>& wanted,
                            const std::optional<StoredArray>& read, const char* slot) {
      if (!wanted) return;
      if (!read) throw_system("{}: {} of {} was not written", place.string(), slot, name);
      all.push_back({fmt::format("{} of {}", slot, name), &*wanted, &*read});
    };
    moment(param.exp_avg, found->second.exp_avg, "exp_avg");
    moment(param.exp_avg_sq, found->second.exp_avg_sq, "exp_avg_sq");
  }
  for_each_on_threads(all.size(), options.threads,
                      [&](std::size_t i) { compare(all[i], options.window_bytes); });
}

}  // namespace thimble
