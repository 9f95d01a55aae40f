#include "compress/tile_kernels.h"

#include <string_view>

#include "core/ops/kernel_table.h"

namespace thimble {

const TileKernels& tile_kernels() {
  static const TileKernels& kChosen =
      std::string_view(cpu_isa()) == "avx2" ? avx2::kTileKernels : avx512::kTileKernels;
  return kChosen;
}

}  // namespace thimble
