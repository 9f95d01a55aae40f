// Writes a file of torch.save: first the pickle with the places of all tensors, then their bytes.
#pragma once

#include <optional>
#include <vector>

#include "core/io/pickle_writer.h"
#include "core/io/zip_archive.h"
#include "launcher/convert/checkpoint_image.h"
#include "launcher/convert/stored_array.h"

namespace thimble {

class TorchWriter {
 public:
  /// The pickle, which the caller fills; tensors are added by tensor() and number().
  PickleWriter pickle;

  /// A tensor with the values of the array, which must live until write().
  void tensor(const StoredArray& array);
  /// A tensor of no dimensions, f32.
  void scalar(float value);

  /// Writes the archive at an offset of a file; returns its bytes.
  std::int64_t write(File& file, std::int64_t offset, std::int64_t window_bytes);

 private:
  struct Storage {
    const StoredArray* array;  // null: the value
    float value;
  };
  void rebuild(DType dtype, const Extents& shape);

  std::vector<Storage> storages_;
};

/// The items lr, eps, weight_decay and betas of a parameter group, in the dict that is open.
void put_adam_settings(PickleWriter& pickle, const AdamSettings& adam);
/// The items of a group of torch.optim.AdamW that say how it computes, at their defaults.
void put_adam_flags(PickleWriter& pickle);

}  // namespace thimble
