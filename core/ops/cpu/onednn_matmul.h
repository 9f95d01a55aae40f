// Matmuls through oneDNN on the calling thread, with caller-supplied workspace and an
// optional prepacked layout of B.
#pragma once

#include <cstdint>

#include "core/ops/kernel_table.h"

namespace thimble::onednn {

/// Workspace that matmul() needs for this spec, in bytes.
std::int64_t workspace_bytes(const MatmulSpec& spec);

/// Runs the matmul on the calling thread. bf16 must be native (has_native_bf16()).
void matmul(const MatmulSpec& spec, const MatmulArgs& args);

/// The layout of B that oneDNN prefers for this matmul; none if the plain one is as good.
PrepackedLayout prepacked_layout(const MatmulSpec& spec);
void prepack(const MatmulSpec& spec, const void* b, void* prepacked);

/// Forbid instruction sets above AVX2, or AMX (for THIMBLE_ISA); to be called before anything else
/// here.
void limit_to_avx2();
void limit_to_avx512_bf16();

}  // namespace thimble::onednn
