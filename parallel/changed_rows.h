// Rows that this rank has changed, on their way to the others: a few parameters together.
#pragma once

#include <vector>

#include "parallel/collectives.h"

namespace thimble {

class ChangedRows {
 public:
  explicit ChangedRows(Communicator& comm) : comm_(comm) {}
  /// Each rank has written its own rows of the tensor. All ranks call it in the same order.
  void add(RowParts parts);
  /// Everybody has all rows of what was added.
  void publish();

 private:
  void start();

  Communicator& comm_;
  std::vector<RowParts> bucket_;
  std::int64_t bucket_bytes_ = 0;
  std::vector<Completion> running_;
};

}  // namespace thimble
