// From one image to a checkpoint in another format: what of it the target holds and in which dtype,
// the writing, and the proof that what was written is what was read.
#pragma once

#include <filesystem>
#include <string_view>

#include "launcher/convert/image_writers.h"

namespace thimble {

enum class ConversionTarget : std::uint8_t {
  kHuggingFace,
  kThimble,
  kTorch,
  kDcp,
  kUniversal,
  kZero,
  kMegatron,
  kGguf
};

struct ConversionRequest {
  ConversionTarget target = ConversionTarget::kHuggingFace;
  std::optional<DType> dtype = {};         // of the weights; none: what loses nothing of the model
  std::optional<GgufType> gguf_type = {};  // the same of a GGUF file
  bool allow_cast = false;                 // weights may lose precision
  bool weights_only = false;
};

/// The type of a GGUF file's matrices: what is asked for, else that of the model.
GgufType chosen_gguf_type(const CheckpointImage& image, const ConversionRequest& request);

/// What is to be written of a source. Checks it against the model that it comes with. UserError if
/// the target needs what the source lacks, or if weights would lose precision unasked.
CheckpointImage output_image(CheckpointImage source, const ConversionRequest& request);

/// Writes the image at a place that nobody else sees yet; all of it is on the disk then.
void write_image(const CheckpointImage& image, ConversionTarget target,
                 const std::filesystem::path& place, const WriteOptions& options);

/// Opens what was written and compares every element, of which each must be there exactly once, and
/// the step, with the windows and threads of the options. SystemError naming the tensor that
/// differs.
void verify_image(const CheckpointImage& image, const std::filesystem::path& place,
                  const WriteOptions& options);

}  // namespace thimble
