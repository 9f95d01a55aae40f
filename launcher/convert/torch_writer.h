// Writes a file of torch.save: first the pickle with the places of all tensors, then their bytes.
#pragma once

#include <map>
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

  /// A tensor with the values of the array, which must live until write(). An array that was given
  /// before is stored once: both tensors share it, as tied weights do.
  void tensor(const StoredArray& array);
  /// A tensor of no dimensions, f32.
  void scalar(float value);

  /// Writes the archive at an offset of a file; returns its bytes. Nothing may be added after it.
  std::int64_t write(File& file, std::int64_t offset, std::int64_t window_bytes);
  /// What write() would return; nothing may be added after it, nor written.
  std::int64_t count();

 private:
  struct Storage {
    const StoredArray* array;  // null: the value
    float value;
  };
  void rebuild(std::size_t storage, DType dtype, const Extents& shape);

  template <typename Values>
  std::int64_t write_entries(ZipWriter& zip, Values&& values);

  std::vector<Storage> storages_;
  std::map<const StoredArray*, std::size_t> places_;  // numbers of their storages
};

/// An empty collections.OrderedDict, to be filled between begin_items() and end_items().
void put_ordered_dict(PickleWriter& pickle);
/// The items lr, eps, weight_decay and betas of a parameter group, in the dict that is open.
void put_adam_settings(PickleWriter& pickle, const AdamSettings& adam);
/// The items of a group of torch.optim.AdamW that say how it computes, at their defaults.
void put_adam_flags(PickleWriter& pickle);

}  // namespace thimble
