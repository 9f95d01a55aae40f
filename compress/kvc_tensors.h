// An open kvc.safetensors whose tensors are those that are expected, no more and no less.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "core/io/safetensors.h"
#include "core/tensor/tensor.h"

namespace thimble {

class KvcTensors {
 public:
  /// Throws UserError naming the file for a tensor that is missing, unexpected, of another shape,
  /// or neither f32 nor bf16.
  KvcTensors(const std::filesystem::path& directory, const std::map<std::string, Shape>& expected);

  /// f32, of the shape in the file (tag io).
  Tensor read(Arena& arena, const std::string& name) const;

 private:
  void check(const std::string& name, const Shape& shape) const;

  std::string path_;
  SafetensorsFile file_;
};

}  // namespace thimble
