// Slices of a tensor of a safetensors file, in the layout in which its parameter is stored.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "core/io/safetensors_model.h"
#include "core/nn/param.h"

namespace thimble {

/// What can be read as a weight: f32, bf16 and f16.
bool is_readable(const SafetensorsEntry& entry);

/// "[2, 3]".
std::string dims_text(std::span<const std::int64_t> dims);

/// Throws UserError naming `place` and what is wrong with its tensors, of much the first; does
/// nothing if nothing is.
void throw_problems(const std::filesystem::path& place, std::vector<std::string> problems);

/// A tensor of a file from one of its rows on.
struct StoredRows {
  SafetensorsModel::Location location;
  std::int64_t first_row = 0;
};

/// As TensorSource::read(), from rows of a tensor whose elements are those of `info.shape`, in
/// their order; a few rows at a time.
void read_stored(Arena& arena, const StoredRows& from, const ParamInfo& info, Slice slice,
                 const Tensor& dst);

}  // namespace thimble
