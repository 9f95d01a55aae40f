// A file of torch.save: a zip archive with one pickle and the bytes of its storages. Read without
// executing anything (core/io/pickle.h); tensors stay in the file until they are read.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "core/io/pickle.h"
#include "core/io/zip_archive.h"
#include "launcher/convert/stored_array.h"

namespace thimble {

/// A tensor of a file, where it lies.
struct TorchTensor {
  std::string dtype_text = {};      // "float32", "int64"
  std::optional<DType> dtype = {};  // none: one that no weight has
  std::int64_t element_bytes = 4;
  Extents shape = {}, strides = {};
  std::int64_t offset = 0;  // of its first element in the file
};

class TorchFile {
 public:
  /// UserError if it is no such file, is damaged or names what is refused.
  static TorchFile open(const std::filesystem::path& path);
  /// The same of a part of a file.
  static TorchFile open(std::shared_ptr<const File> file, FileRange range, std::string name);

  const PickleValue& root() const { return root_; }
  const std::string& name() const { return archive_.name(); }

  /// None if the value is no tensor. UserError if it does not lie in its storage, or has more
  /// elements than that.
  std::optional<TorchTensor> tensor(const PickleValue& value) const;
  /// An array of f32, bf16 or f16; UserError if it is none.
  StoredArray array(const std::string& name, const PickleValue& value) const;
  /// A run of elements of a tensor of one dimension, as a piece of a flat array.
  ArrayPiece run(const TorchTensor& tensor, FileRange elements, std::int64_t begin) const;
  /// The rows of a tensor from `row` on, without their place in an array: begin and extent are the
  /// caller's.
  ArrayPiece rows(const TorchTensor& tensor, std::int64_t row) const;
  /// A number: an int, a float, or a tensor of one element.
  double number(const PickleValue& value, std::string_view what) const;

 private:
  TorchFile(ZipArchive archive, std::string prefix, PickleValue root)
      : archive_(std::move(archive)), prefix_(std::move(prefix)), root_(std::move(root)) {}
  TorchTensor strided(const PickleValue& arguments) const;

  ZipArchive archive_;
  std::string prefix_;  // of the names in the archive
  PickleValue root_;
};

/// A tuple, list or torch.Size of integers.
Extents integers(const PickleValue& value, std::string_view what);

/// Whether the file begins like one of torch.save, of any age.
bool is_torch_file(const std::filesystem::path& path);

}  // namespace thimble
