// An array as it lies in files: whole, as boxes of it in several files, or as runs of its elements
// in the order of its rows. Reading proves that every element is in exactly one place. Knows no
// format: the readers of formats make these, the writers read them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/base/dtype.h"
#include "core/io/file.h"

namespace thimble {

using Extents = std::vector<std::int64_t>;

/// Product of the sizes; UserError naming `what` if one is negative or the product is absurd.
std::int64_t checked_numel(const Extents& shape, std::string_view what);

/// Where a box of an array lies in a file.
struct ArrayPiece {
  std::shared_ptr<const File> file = {};
  std::int64_t offset = 0;          // of the box's first element, in bytes
  Extents begin = {}, extent = {};  // of the box, in the array's frame
  Extents strides = {};             // in the file, in elements
};

/// How the elements of an array are got. Elements are counted in row-major order.
class ArrayReader {
 public:
  virtual ~ArrayReader() = default;
  /// Fills `out` with elements from `first` on, which must be the first of a row and end with one.
  /// UserError if an element is in no place or in two.
  virtual void read(std::int64_t first, std::span<std::byte> out) const = 0;
};

struct StoredArray {
  std::string name = {};  // for messages
  DType dtype = DType::kF32;
  Extents shape = {};  // row-major; empty: one number
  std::shared_ptr<const ArrayReader> reader = {};

  std::int64_t numel() const;
  std::int64_t bytes() const { return numel() * dtype_size(dtype); }
  /// Elements of one row: of all but the first size.
  std::int64_t row() const;
};

/// An array of pieces. `frame` is its shape, or {numel} where the pieces are runs of elements. The
/// pieces must lie in their files. UserError if they have more or fewer elements than the array.
StoredArray array_of_pieces(std::string name, DType dtype, Extents shape,
                            std::vector<ArrayPiece> pieces);

/// The same array of f32 or bf16 values whatever it is stored as. f32 to bf16 rounds to nearest,
/// ties to even.
StoredArray as_dtype(const StoredArray& array, DType dtype);

/// One f32 of no dimensions.
StoredArray number_array(float value);

/// Strides of a row-major array.
Extents row_major_strides(const Extents& shape);

}  // namespace thimble
